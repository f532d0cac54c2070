// Checks a trail and proofs of its records with Go's checksum-database packages, which share nothing
// with this library:
//
//	sumdb VERIFIER-KEY[,WITNESS-KEY] SEGMENT... -- PROOF...
//
// With the key of a witness (C2SP tlog-cosignature, type 4), each note must be cosigned by it, too.
//
// Every checkpoint line of the segments is opened with sumdb/note and parsed as a tree, and every
// proof (a C2SP tlog-proof whose extra line is the record) is checked with sumdb/tlog. Prints how many
// there were; ends with status 1 at the first that is refused.
package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// signatures is how many known keys must have signed each note.
var signatures = 1

// witness verifies cosignatures.
type witness struct {
	name string
	key  []byte
}

func (w witness) Name() string { return w.name }

func (w witness) KeyHash() uint32 {
	hash := sha256.Sum256([]byte(w.name + "\n" + string(w.key)))
	return binary.BigEndian.Uint32(hash[:])
}

func (w witness) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	var signed bytes.Buffer
	fmt.Fprintf(&signed, "cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(signature), text)
	return ed25519.Verify(w.key[1:], signed.Bytes(), signature[8:])
}

func main() {
	own, cosigner, cosigned := strings.Cut(os.Args[1], ",")
	verifier, err := note.NewVerifier(own)
	if err != nil {
		refuse(own, err)
	}
	known := note.VerifierList(verifier)
	if cosigned {
		parts := strings.SplitN(cosigner, "+", 3)
		key, err := base64.StdEncoding.DecodeString(parts[2])
		if err != nil || key[0] != 4 {
			refuse(cosigner, err)
		}
		known = note.VerifierList(verifier, witness{parts[0], key})
		signatures = 2
	}
	checkpoints, proofs, inProofs := 0, 0, false
	for _, path := range os.Args[2:] {
		if path == "--" {
			inProofs = true
			continue
		}
		if inProofs {
			err = checkProof(path, known)
			proofs++
		} else {
			var found int
			found, err = openCheckpoints(path, known)
			checkpoints += found
		}
		if err != nil {
			refuse(path, err)
		}
	}
	fmt.Println(checkpoints, "checkpoints,", proofs, "proofs")
}

func openCheckpoints(path string, known note.Verifiers) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	found := 0
	for lines.Scan() {
		var line struct{ Checkpoint string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return found, err
		}
		if line.Checkpoint == "" {
			continue
		}
		if _, err := openTree(line.Checkpoint, known); err != nil {
			return found, err
		}
		found++
	}
	return found, lines.Err()
}

// openTree returns what a checkpoint says, if a known key has signed it. Go's own trees begin with
// another origin line, so that line is exchanged before Go's parser sees the rest.
func openTree(text string, known note.Verifiers) (tlog.Tree, error) {
	opened, err := note.Open([]byte(text), known)
	if err != nil {
		return tlog.Tree{}, err
	}
	origin, rest, _ := strings.Cut(opened.Text, "\n")
	own := false
	for _, signature := range opened.Sigs {
		own = own || signature.Name == origin
	}
	if !own || len(opened.Sigs) != signatures {
		return tlog.Tree{}, fmt.Errorf("origin %q is not signed by all known keys", origin)
	}
	return tlog.ParseTree([]byte("go.sum database tree\n" + rest))
}

func checkProof(path string, known note.Verifiers) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, checkpoint, _ := strings.Cut(string(text), "\n\n")
	tree, err := openTree(checkpoint, known)
	if err != nil {
		return err
	}
	lines := strings.Split(head, "\n")
	if len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return fmt.Errorf("not a proof")
	}
	record, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	var inclusion tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		inclusion = append(inclusion, hash)
	}
	return tlog.CheckRecord(inclusion, tree.N, tree.Hash, index, tlog.RecordHash(record))
}

func refuse(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	os.Exit(1)
}
