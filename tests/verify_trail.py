#!/usr/bin/env python3
"""verify_trail.py DIR VKEY [ANCHOR_FILE]: checks an audit trail without the library that wrote it.

Needs Python's standard library and the `openssl` command. Prints HOLDS or BROKEN with reasons;
exit status 0 or 1. The Merkle roots are computed by RFC 6962's recursive definition.
"""
import base64, hashlib, json, os, pathlib, re, subprocess, sys, tempfile

COMMON = ["seq", "time", "mono_us", "boot", "worker", "event", "severity", "outcome"]
problems, remarks = [], []


def b64(text):
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 is not canonical")
    return data


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


class Tree:
    """All known complete subtrees by their range of leaves; a leaf is a subtree of one."""

    def __init__(self):
        self.size, self.known = 0, {}

    def push(self, line):
        self.known[self.size, self.size + 1] = sha256(b"\0", line)
        self.size += 1

    def node(self, start, end):
        if (start, end) in self.known or end - start == 1:
            return self.known[start, end]
        split = start + (1 << (end - start - 1).bit_length() - 1)
        node = sha256(b"\1", self.node(start, split), self.node(split, end))
        if end - start == 2 * (split - start):
            self.known[start, end] = node
        return node

    def root(self):
        return self.node(0, self.size) if self.size else sha256()

    def begin(self, size, nodes):
        """Where older segments are absent: the frontier that the first header states."""
        self.size = size
        self.known = dict(zip(frontier(size), nodes))

    def cut(self, size):
        self.size, self.known = size, {k: v for k, v in self.known.items() if k[1] <= size}


def frontier(size):
    """The ranges of the maximal complete subtrees, largest first."""
    at, ranges = 0, []
    for bit in range(size.bit_length() - 1, -1, -1):
        if size >> bit & 1:
            ranges.append((at, at + (1 << bit)))
            at += 1 << bit
    return ranges


class Key:
    def __init__(self, text):
        self.name, digits, blob = text.split("+", 2)
        blob = b64(blob)
        self.hash = sha256(self.name.encode(), b"\n", blob)[:4]
        if blob[:1] != b"\1" or len(blob) != 33 or self.hash.hex() != digits:
            raise ValueError("not an Ed25519 verifier key")
        self.folder = tempfile.TemporaryDirectory()
        self.public = self.put("key.der", bytes.fromhex("302a300506032b6570032100") + blob[1:])
        self.known = {}

    def put(self, name, data):
        path = pathlib.Path(self.folder.name, name)
        path.write_bytes(data)
        return path

    def read(self, note):
        """(size, root) of a checkpoint signed by this key; raises ValueError."""
        if note not in self.known:
            match = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]*)\n([^\n]+)\n\n— ([^\n ]+) ([^\n]+)\n", note)
            if not match or match[1] != self.name or match[4] != self.name:
                raise ValueError("not a checkpoint of this trail with one signature")
            root, blob = b64(match[3]), b64(match[5])
            if len(root) != 32 or len(blob) != 68 or blob[:4] != self.hash:
                raise ValueError("another key, or a wrong length")
            message = self.put("message", note[:note.index("\n\n") + 1].encode())
            signature = self.put("signature", blob[4:])
            command = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-keyform", "DER",
                       "-inkey", self.public, "-in", message, "-sigfile", signature]
            if subprocess.run(command, capture_output=True).returncode:
                raise ValueError("the signature is wrong")
            self.known[note] = (int(match[2]), root)
        return self.known[note]


def check_segment(number, data, tree, key, end):
    """Returns the records that are acknowledged, the end, and the last checkpoint's text."""
    where, offset, good, note, acknowledged, waiting = f"segment {number:06}", 0, 0, None, [], []
    wrong, checkpoints, size = None, 0, tree.size
    for line in data.split(b"\n"):
        start, offset = offset, offset + len(line) + 1
        if start >= len(data) or (end is not None and start >= end):
            break
        if checkpoints:
            wrong = (start, "more than one batch is not acknowledged", True)
        try:
            if offset > len(data):
                raise ValueError("torn line")
            if len(line) > 65535:
                raise ValueError("line too long")
            value = json.loads(line)
            if list(value) == ["checkpoint"]:
                checkpoints += 1
                if line != ('{"checkpoint":%s}' % json.dumps(value["checkpoint"], ensure_ascii=False)).encode():
                    raise ValueError("the checkpoint line is not in its one form")
                stated, root = key.read(value["checkpoint"])
                if stated != tree.size or stated <= size or root != tree.root():
                    raise ValueError(f"the checkpoint at {stated} leaves does not match")
                if wrong:
                    problems.append(f"{where}, byte {wrong[0]}: {wrong[1]}")
                note, good, size, wrong, checkpoints = value["checkpoint"], offset, stated, None, 0
                acknowledged += waiting
                waiting = []
            elif list(value)[:8] == COMMON and type(value["seq"]) is int:
                tree.push(line)
                waiting.append(value)
            else:
                raise ValueError("neither a record nor a checkpoint")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            wrong = wrong or (start, str(error), False)
    tree.cut(size)
    if note is None or (end is not None and good != end) or (wrong and wrong[2]):
        problems.append(f"{where}: {wrong[1] if wrong else 'no matching checkpoint where one must be'}")
    if good < len(data):
        remarks.append(f"{where}: {len(data) - good} bytes are not acknowledged")
    return acknowledged, good, note


def check_numbers(runs):
    """`runs` holds the acknowledged records of each segment, in order."""
    there, lost, excused, ordinary, base = set(), set(), set(), -1, -1
    for number, records in runs:
        for at, record in enumerate(records):
            seq, event = record["seq"], record["event"]
            if seq in there or (at and seq <= ordinary):
                problems.append(f"segment {number:06}: number {seq} stands again or out of order")
            there.add(seq)
            if at:
                ordinary = seq
            elif event == "TrailOpened":
                base = ordinary
            if event == "RecordsLost":
                first, last = record["first"], record["last"]
                if not 0 <= last - first < 10_000_000 or last >= seq or last - first + 1 != record["count"]:
                    raise ValueError(f"RecordsLost {first} to {last}")
                named = set(range(first, last + 1))
                if named & lost:
                    problems.append(f"segment {number:06}: lost numbers are named twice")
                lost |= named
                remarks.append(f"lost: {first} to {last}")
            elif event == "TailRecovered":
                excused |= set(range(base + 1, min(record["highest_seq"] + 1, seq)))
    if lost & there:
        problems.append(f"number {min(lost & there)} is said to be lost, but is there")
    first = 0 if runs[0][0] == 0 else min(there, default=0)
    accounted = there | lost | excused
    missing = [seq for seq in range(first, ordinary + 1) if seq not in accounted]
    if missing:
        problems.append(f"{len(missing)} numbers are missing, the first is {missing[0]}")


def read_headers(numbers, data, key):
    headers = []
    for number, text in zip(numbers, data):
        header = json.loads(text.split(b"\n")[0])
        if header["event"] not in ("TrailOpened", "SegmentOpened") or header["segment"] != number:
            raise ValueError(f"segment {number:06} has no header, or that of another segment")
        if (number == 0) != ("previous" not in header) or header["origin"] != key.name:
            raise ValueError(f"segment {number:06} has no previous segment, or another origin")
        headers.append(header)
    return headers


def check_previous(number, previous, tree, key, before):
    size, root = key.read(previous["checkpoint"])
    nodes = [b64(node) for node in previous["frontier"]]
    if before is None:
        tree.begin(size, nodes)
        remarks.append(f"OLDER SEGMENTS ARE ABSENT: checked from leaf {size} on")
    elif (number - 1, *before) != (previous["segment"], previous["end"], previous["checkpoint"]):
        problems.append(f"segment {number:06}: `previous` is not what was read")
    if tree.size != size or tree.root() != root or [tree.node(*part) for part in frontier(size)] != nodes:
        problems.append(f"segment {number:06}: the frontier does not fit")


def main(directory, vkey, anchor=None):
    key = Key(vkey)
    names = sorted(name for name in os.listdir(directory) if re.fullmatch(r"[0-9]{6}\.jsonl", name))
    numbers = [int(name[:6]) for name in names]
    if not names or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError("segments are missing")
    data = [pathlib.Path(directory, name).read_bytes() for name in names]
    headers = read_headers(numbers, data, key)
    ends = [header["previous"]["end"] for header in headers[1:]] + [None]
    tree, runs, before = Tree(), [], None
    for number, header, text, following in zip(numbers, headers, data, ends):
        if number:
            check_previous(number, header["previous"], tree, key, before)
        if header["first_leaf"] != tree.size:
            problems.append(f"segment {number:06}: first_leaf is wrong")
        records, *before = check_segment(number, text, tree, key, following)
        runs.append((number, records))
    check_numbers(runs)
    remarks.append(f"{sum(len(r) for _, r in runs)} records acknowledged, {tree.size} leaves")
    size, root = key.read(pathlib.Path(anchor).read_text("utf-8")) if anchor else (-1, b"")
    known = numbers[0] == 0 and 0 < size <= tree.size
    if size > tree.size or (size == tree.size and root != tree.root()) or (known and tree.node(0, size) != root):
        problems.append(f"the anchor at {size} leaves contradicts the trail")
    remarks.append(f"the end is {'' if size == tree.size else 'NOT '}vouched for by an anchor")


try:
    main(*sys.argv[1:])
except (ValueError, KeyError, TypeError, IndexError, OSError) as reason:
    problems.append(f"not in the trail's form: {reason!r}")
print("\n  ".join(["BROKEN" if problems else "HOLDS", *problems, *remarks]))
sys.exit(1 if problems else 0)
