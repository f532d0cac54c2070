#!/usr/bin/env python3
"""verify_trail.py DIR VKEY [ANCHOR_FILE]: checks an audit trail without the library that wrote it.

Needs Python's standard library and the `openssl` command. Prints HOLDS or BROKEN with reasons;
exit status 0 or 1. The Merkle roots are computed by RFC 6962's recursive definition.
"""
import base64, hashlib, json, os, pathlib, re, subprocess, sys, tempfile

COMMON = ["seq", "time", "mono_us", "boot", "worker", "event", "severity", "outcome"]
START, FORM = b'{"checkpoint":', rb'\{"checkpoint":"[^"\\]+\\n[0-9]+\\n[^"\\]{44}\\n\\n\xe2\x80\x94 [^"\\ ]+ [^"\\]{92}\\n"\}'
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

    def cut(self, size):
        self.size, self.known = size, {k: v for k, v in self.known.items() if k[1] <= size}

def frontier(size):
    """The ranges of the maximal complete subtrees, largest first."""
    bits = [bit for bit in range(size.bit_length()) if size >> bit & 1]
    return [(size >> bit + 1 << bit + 1, size >> bit << bit) for bit in reversed(bits)]

class Key:
    """A verifier key; signatures are checked by openssl."""

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
            message = self.put("message", note[:note.index("\n\n") + 1].encode())
            signature = self.put("signature", blob[4:])
            command = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-keyform", "DER",
                       "-inkey", self.public, "-in", message, "-sigfile", signature]
            wrong = len(root) != 32 or len(blob) != 68 or blob[:4] != self.hash
            if wrong or subprocess.run(command, capture_output=True).returncode:
                raise ValueError("the signature is not by this key")
            self.known[note] = (int(match[2]), root)
        return self.known[note]

def read_line(line, tree, key, size):
    """A record, or the size that a matching checkpoint states; raises ValueError."""
    value = json.loads(line)
    if len(line) <= 65535 and list(value)[:8] == COMMON and type(value["seq"]) is int:
        tree.push(line)
        return value
    if line != ('{"checkpoint":%s}' % json.dumps(value["checkpoint"], ensure_ascii=False)).encode():
        raise ValueError("the checkpoint line is not in its one form")
    if tree.size == size or key.read(value["checkpoint"]) != (tree.size, tree.node(0, tree.size)):
        raise ValueError("a checkpoint does not match, or covers nothing")
    return value["checkpoint"]

def check_segment(number, data, tree, key, end):
    """Returns the records that are acknowledged, the end, and the last checkpoint's text."""
    acknowledged, waiting, good, note, offset, size = [], [], 0, None, 0, tree.size
    wrong, whole, closed, beyond = None, False, False, False  # since the last matching checkpoint
    for line in data[:end].split(b"\n")[:-1]:
        start, offset = offset, offset + len(line) + 1
        try:
            value = read_line(line, tree, key, size)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            wrong, value = wrong or f"segment {number:06}, byte {start}: {error}", None
        beyond = beyond or whole or (closed and (line.startswith(START) or value is not None))
        closed, whole = closed or line.startswith(START), whole or re.fullmatch(FORM, line) is not None
        if not isinstance(value, str):
            waiting += [value] if value else []
            continue
        problems.extend(filter(None, [wrong]))
        acknowledged, waiting, good, note, size = acknowledged + waiting, [], offset, value, tree.size
        wrong, whole, closed, beyond = None, False, False, False
    tree.cut(size)
    beyond = beyond or (whole and offset < len(data[:end]))
    if note is None or beyond or (end is not None and good != end):
        problems.append(wrong or f"segment {number:06}: no matching checkpoint where one must be")
    if good < len(data):
        remarks.append(f"segment {number:06}: {len(data) - good} bytes are not acknowledged")
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
                if lost & set(range(first, last + 1)):
                    problems.append(f"segment {number:06}: lost numbers are named twice")
                lost |= set(range(first, last + 1))
                remarks.append(f"lost: {first} to {last}")
            elif event == "TailRecovered":
                excused |= set(range(base + 1, min(record["highest_seq"] + 1, seq)))
    if lost & there:
        problems.append(f"number {min(lost & there)} is said to be lost, but is there")
    first = 0 if runs[0][0] == 0 else min(there, default=0)
    missing = sorted(set(range(first, ordinary + 1)) - there - lost - excused)
    if missing:
        problems.append(f"{len(missing)} numbers are missing, the first is {missing[0]}")

def read_header(number, text, key):
    header = json.loads(text.split(b"\n")[0])
    wrong = header["event"] not in ("TrailOpened", "SegmentOpened") or header["segment"] != number
    if wrong or (number == 0) != ("previous" not in header) or header["origin"] != key.name:
        raise ValueError(f"segment {number:06} has no header, or that of another segment or trail")
    return header

def check_previous(number, previous, tree, key, before):
    size, root = key.read(previous["checkpoint"])
    nodes = [b64(node) for node in previous["frontier"]]
    if before is None:
        tree.size, tree.known = size, dict(zip(frontier(size), nodes))
        remarks.append(f"OLDER SEGMENTS ARE ABSENT: checked from leaf {size} on")
    elif (number - 1, *before) != (previous["segment"], previous["end"], previous["checkpoint"]):
        problems.append(f"segment {number:06}: `previous` is not what was read")
    if tree.size != size or [tree.node(*part) for part in frontier(size)] != nodes or tree.node(0, size) != root:
        problems.append(f"segment {number:06}: the frontier does not fit")

def main(directory, vkey, anchor=None):
    key = Key(vkey)
    names = sorted(name for name in os.listdir(directory) if re.fullmatch(r"[0-9]{6}\.jsonl", name))
    numbers = [int(name[:6]) for name in names]
    if not names or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError("segments are missing")
    data = [pathlib.Path(directory, name).read_bytes() for name in names]
    headers = [read_header(*each, key) for each in zip(numbers, data)]
    ends = [header["previous"]["end"] for header in headers[1:]] + [None]
    tree, runs, before = Tree(), [], None
    for number, header, text, following in zip(numbers, headers, data, ends):
        if number:
            check_previous(number, header["previous"], tree, key, before)
        if header["first_leaf"] != tree.size:
            raise ValueError(f"segment {number:06}: first_leaf is wrong")
        records, *before = check_segment(number, text, tree, key, following)
        runs.append((number, records))
    check_numbers(runs)
    remarks.append(f"{sum(len(r) for _, r in runs)} records acknowledged, {tree.size} leaves")
    size, root = key.read(pathlib.Path(anchor).read_text("utf-8")) if anchor else (-1, b"")
    comparable = size == tree.size or (numbers[0] == 0 and 0 < size < tree.size)
    if size > tree.size or (comparable and root != tree.node(0, size)):
        problems.append(f"the anchor at {size} leaves contradicts the trail")
    remarks.append(f"the end is {'' if size == tree.size else 'NOT '}vouched for by an anchor")

try:
    main(*sys.argv[1:])
except (ValueError, KeyError, TypeError, IndexError, OSError, RecursionError) as reason:
    problems.append(f"not in the trail's form: {reason!r}")
print("\n  ".join(["BROKEN" if problems else "HOLDS", *problems, *remarks]))
sys.exit(1 if problems else 0)
