#!/usr/bin/env python3
"""verify_trail.py DIR VKEY[,VKEY...] [ANCHOR_FILE]: checks a trail without the library that wrote it.

Needs Python's standard library and the `openssl` command, and was written from FORMAT.md alone. Exit
status: 0 sound, 1 broken, 2 not checked, 3 holds with something missing; the reasons are printed.
"""
import base64, bisect, contextlib, datetime, hashlib, json, os, pathlib, re, subprocess, sys, tempfile
TOKEN = re.compile(r"([ \t\n\r]*)([][{},:]|true|false|null|" r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"|'
                   r"-?(?:0|[1-9][0-9]*)(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?)")
# What strings and numbers are in format 2, and nothing else but `true` and `false`.
ONE = re.compile(r'true|false|"(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))*"|0|-?[1-9][0-9]{0,19}')
NAME, NUMBER, TIME = r'"[^"\\]*"', "0|[1-9][0-9]{0,19}", '"0000-00-00T00:00:00[.]000000000Z"'.replace("0", "[0-9]")
COMMON = {"seq": NUMBER, "time": TIME, "mono_us": NUMBER, "boot": NAME, "worker": NAME, "event": NAME,
          "severity": '"(INFO|WARN|CRITICAL)"', "outcome": '"(success|failure)"'}
HEADERS, WORDS = ("TrailOpened", "SegmentOpened"), ("SOUND", "BROKEN", "NOT CHECKED", "HOLDS, BUT LACKS:")
MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)

def b64(text):
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 is not canonical")
    return data
sha256 = lambda *parts: hashlib.sha256(b"".join(parts)).digest()

class Tree:
    """All known complete subtrees by their range of leaves, by RFC 6962's recursive definition."""
    def __init__(self, size=0, nodes=()):
        self.size, self.known = size, dict(zip(frontier(size), nodes))
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
def frontier(size):
    """The ranges of the maximal complete subtrees, largest first."""
    bits = [bit for bit in range(size.bit_length()) if size >> bit & 1]
    return [(size >> bit + 1 << bit + 1, size >> bit << bit) for bit in reversed(bits)]
def minus(spans, cuts):
    """Spans (start, end) of numbers without those in `cuts`: a gap may be longer than a memory."""
    for first, last in cuts:
        parts = [((start, min(end, first)), (max(start, last), end)) if start < last and first < end else ((start, end),)
                 for start, end in spans]
        spans = [part for both in parts for part in both if part[0] < part[1]]
    return spans
def parse(note):
    """(origin, size, root, key name, signature) of a note with one signature; raises ValueError."""
    match = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]*)\n([^\n]{44})\n\n— ([^\n ]+) ([^\n]{92})\n", note)
    if not match or len(b64(match[3])) != 32 or len(b64(match[5])) != 68:
        raise ValueError("not a checkpoint with one signature")
    return match[1], int(match[2]), b64(match[3]), match[4], b64(match[5])
def alone(anchor):
    """The anchor's text with one signature line alone: the first of each key name and key hash."""
    (text, lines), notes = anchor.split("\n\n"), {}
    for name, blob in re.findall("^— ([^ \n]+) ([^ \n]+)$", lines, re.MULTILINE):
        notes.setdefault((name, b64(blob)[:4]), f"{text}\n\n— {name} {blob}\n")
    return notes

class Key:
    """A verifier key; signatures are checked by openssl."""
    known = {}
    def __init__(self, text):
        self.text, (self.name, digits, blob) = text, text.split("+", 2)
        blob = b64(blob)
        self.hash = sha256(self.name.encode(), b"\n", blob)[:4]
        if blob[:1] != b"\1" or len(blob) != 33 or self.hash.hex() != digits:
            raise ValueError("not an Ed25519 verifier key")
        self.der = bytes.fromhex("302a300506032b6570032100") + blob[1:]
    def signed(self, note):
        origin, _, _, name, blob = parse(note)
        if (origin, name, blob[:4]) != (self.name, self.name, self.hash):
            return False
        if (self.text, note) not in self.known:
            with tempfile.TemporaryDirectory() as folder:
                command = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-keyform", "DER"]
                parts = {"-inkey": self.der, "-in": note[:note.index("\n\n") + 1].encode(), "-sigfile": blob[4:]}
                for option, data in parts.items():
                    pathlib.Path(folder, option).write_bytes(data)
                    command += [option, pathlib.Path(folder, option)]
                self.known[self.text, note] = not subprocess.run(command, capture_output=True).returncode
        return self.known[self.text, note]
def scan(text):
    """The fields of a JSON object, as pairs of a name and a value as they are written, and whether it is in the one
    form of format 2. There may be as many levels as a line has room for."""
    at, start, levels, state, one, fields, token = 0, 0, [], "value", True, [], ""
    while match := TOKEN.match(text, at):
        token, at = match[2], match.end()
        one &= not match[1] and len(levels) <= 16
        if token in "}]":
            if state not in ("next", "member" if token == "}" else "item") or (levels.pop() is None) == (token == "}"):
                raise ValueError("a bracket is not in its place")
            state = "next"
        elif token in ",:":
            if state != ("next" if token == "," else "colon"):
                raise ValueError("a comma or colon is not in its place")
            state = "value" if token == ":" or levels[-1] is None else "name"
            start = at if len(levels) == 1 else start
        elif state in ("name", "member") and token[0] == '"':
            one &= token not in levels[-1] and ONE.fullmatch(token) is not None
            levels[-1].add(token)
            state = "colon"
            if len(levels) == 1:
                fields.append((token, ""))
        elif state in ("value", "item"):
            levels += [set()] if token == "{" else [None] if token == "[" else []
            state = {"{": "member", "[": "item"}.get(token, "next")
            one &= state != "next" or ONE.fullmatch(token) is not None and (
                token[0] not in "-0123456789" or -2**63 <= int(token) < 2**64)
        else:
            raise ValueError("a value is not in its place")
        if len(levels) == 1 and state == "next" and fields:
            fields[-1] = fields[-1][0], text[start:at].strip(" \t\n\r")
        if not levels:
            break
    if levels or text[at:].strip(" \t\n\r") or token != "}":
        raise ValueError("not an object")
    return fields, one and at == len(text)
def number(text):
    if not re.fullmatch(NUMBER, text) or int(text) >= 2**64:
        raise ValueError("not a whole number")
    return int(text)
def string(text):
    value = json.loads(text) if text[0] == '"' else None
    value.encode()  # half a character raises here, and None, too
    return value
def strings(text):
    values = json.loads(text) if text[0] == "[" else None
    "".join(values).encode()
    return values
def take(fields, kinds):
    """Those of the fields that have a kind, each once. A kind is a function; in a pair with "maybe" the field may be
    absent, in one with "or null" it may also be null."""
    found = [(name, value) for name, value in ((string(name), value) for name, value in fields) if name in kinds]
    read = {name: kinds[name] if isinstance(kinds[name], tuple) else (kinds[name],) for name in kinds}
    values = {name: read[name][-1](value) for name, value in found if value != "null" or read[name][0] != "or null"}
    if len(found) > len(dict(found)) or any(name not in values for name in kinds if len(read[name]) == 1):
        raise ValueError("a field is missing, or there twice")
    return values
def voided(text):
    if type(json.loads(text)) is not list:
        raise ValueError("not a list")
    return [take(scan(json.dumps(entry))[0], {"size": number, "root": string}) for entry in json.loads(text)]
PREVIOUS = {"segment": number, "end": number, "void": ("or null", number), "checkpoint": string, "frontier": strings,
            "voided": ("maybe", voided), "voided_total": ("or null", number)}
HEADER = {"format": ("maybe", number), "numbers_below": ("or null", number), "segment": number, "first_leaf": number,
          "origin": string, "key": string, "previous": ("or null", lambda text: take(scan(text)[0], PREVIOUS))}
FACTS = {"TrailOpened": HEADER, "SegmentOpened": HEADER, "KeyChanged": {"key": string},
         "NumbersReserved": {"numbers_below": number}, "TrailClosed": {"offset": ("or null", number)},
         "RecordsLost": {"first": number, "last": number, "count": number, "unnumbered": ("maybe", number)},
         "TailRecovered": dict.fromkeys(("segment", "void_from", "void_bytes", "highest_seq"), number)}
def record(line):
    """What is needed of a record; raises ValueError if the line is none. `one`: by the rules of format 2, too."""
    fields, one = scan(line.decode())
    common, own = fields[:8], fields[8:]
    if [name for name, _ in common] != [f'"{name}"' for name in COMMON] or set(COMMON) & {string(name) for name, _ in own}:
        raise ValueError("the common fields are not in their order")
    if not all(re.fullmatch(form, value) for form, (_, value) in zip(COMMON.values(), common)):
        raise ValueError("a common field has another form")
    value = {"seq": number(common[0][1]), "worker": string(common[4][1]), "event": string(common[5][1])}
    if value["seq"] > 2**53 or number(common[2][1]) >= 2**64:
        raise ValueError("a number is too large")
    value |= {"format": 1} | take(own, FACTS.get(value["event"], {}))
    with contextlib.suppress(*MALFORMED):
        value |= take(own, {"previous_key": string})
    with contextlib.suppress(ValueError):
        value["one"] = one and bool(datetime.datetime(*map(int, re.findall("[0-9]+", common[1][1])[:6])))
    return value
def read(line, format=1):
    """(kind, value) of a line: a record, a checkpoint's text, or the damaged beginning of one."""
    is_begun = len(line) <= 65535 and line.startswith(b'{"checkpoint":')
    with contextlib.suppress(*MALFORMED):
        if is_begun:
            note = json.loads(line.decode())["checkpoint"]
            parse(note)
            if line == ('{"checkpoint":%s}' % json.dumps(note, ensure_ascii=False)).encode():
                return "checkpoint", note
        elif len(line) <= 65535:
            value = record(line)
            if value.get("one") or format != 2:
                return "record", value
    return "begun" if is_begun else "damaged", None

class Check:
    def __init__(self, directory, vkeys, anchor=None):
        self.problems, self.unchecked, self.missing = [], [], set()
        try:
            self.keys = {text: Key(text) for text in vkeys}
            self.trail(pathlib.Path(directory), anchor)
        except (*MALFORMED, OSError) as reason:
            self.problems.append(f"not in the trail's form: {reason!r}")
        self.status = 1 if self.problems else 2 if self.unchecked else 3 if self.missing else 0
    def expect(self, fine, words):
        self.problems += [] if fine else [words]
    def fits(self, value, header, start, last):
        """Whether a record may stand at this byte, behind a record of the event `last`, by what it says itself."""
        fine = last != "KeyChanged" and not (start and value["event"] in HEADERS)
        fine &= value["event"] != "TrailClosed" or value.get("offset", start) == start
        if header["format"] == 2:
            fine &= re.fullmatch(f"vram-residency/{re.escape(value['worker'])}/[0-9a-f]{{16}}", header["origin"]) is not None
            fine &= value["event"] != "TrailClosed" or "offset" in value
            fine &= value["event"] != "KeyChanged" or value.get("previous_key") == header["key"]
            fine &= value["event"] != "TailRecovered" or value["void_bytes"] == header.get("previous", {}).get("void")
        return fine
    def segment(self, number, header, data, tree, key, end):
        acknowledged, waiting, behind, good, text, offset, right, size = [], [], [], 0, None, 0, True, tree.size
        for at, line in enumerate(data.split(b"\n")[:-1]):
            (kind, value), start, offset = read(line, header["format"]), offset, offset + len(line) + 1
            behind.append(kind)
            if end is not None and start >= end:
                continue
            last, fits = (waiting or acknowledged or [{"event": None}])[-1]["event"], False
            if kind == "record":
                tree.push(line)
                waiting.append(value | {"line": at})
                fits = self.fits(value, header, start, last)
            elif kind == "checkpoint" and key.signed(value):
                _, stated, root, *_ = parse(value)
                fits = stated > size and (stated, root) == (tree.size, tree.node(0, tree.size))
                behind[-1] = "stale" if stated <= size else kind
            if kind == "checkpoint" and fits:
                self.expect(right, f"segment {number:06}: a line before byte {start} is damaged")
                acknowledged, waiting, good, text, size = acknowledged + waiting, [], offset, value, tree.size
                behind = []
            right = not behind or (right and fits)
        tree.size, tree.known = size, {part: node for part, node in tree.known.items() if part[1] <= size}
        behind += ["damaged"] * (offset < len(data))
        first = next((at for at, kind in enumerate(behind) if kind in ("begun", "checkpoint")), len(behind))
        many = any(kind != "damaged" for kind in behind[first + 1:]) or "checkpoint" in behind[:-1]
        many &= end is None or read(data.split(b"\n")[0])[1].get("format", 1) < 2
        fine = text is not None and not many and "stale" not in behind and end in (None, good)
        self.expect(fine, f"segment {number:06}: no matching checkpoint where one must be")
        return acknowledged, good, text
    def numbers(self, runs):
        """`runs` holds the acknowledged records of each segment, or None for one without a key."""
        there, lost, excused, ordinary, base, first = set(), [], [], -1, -1, None if runs[0][0] else 0
        bound, last, highest, killed, behind = None, None, None, [], None
        for number, records in runs:
            first, last, bound = (first, last, bound) if records is not None else (None, None, None)
            for at, record in enumerate(records or []):
                seq, event = record["seq"], record["event"]
                self.expect(seq not in there and (not at or seq > ordinary), f"number {seq} is not in its place")
                there.add(seq)
                if not at:
                    before, bound = bound, record["numbers_below"] if record.get("format", 1) > 1 else None
                    opens, closed = event == "TrailOpened", last and last["event"] == "TrailClosed"
                    fine = not (before and bound) or (closed if opens else False) or (seq if opens else bound) >= before
                    self.expect(fine, f"number {seq} may have been given by a killed run, or the bound is lowered")
                    highest = None if not (before and bound) else max(there - {seq}) if closed else before - 1
                    left = before if opens and not closed else None
                self.expect(bound is None or seq < bound, f"number {seq} is not below its bound {bound}")
                bound = max(bound, record["numbers_below"]) if bound and event == "NumbersReserved" else bound
                last = record
                if event == "TrailOpened":
                    base, behind = ordinary, number - 1
                ordinary = seq if at else ordinary
                # Behind what was not read, numbers are known from the first ordinary record on.
                first = min(seq, records[0]["seq"]) if at and first is None else first
                if event == "RecordsLost":
                    start, end = record["first"], record["last"] + 1
                    fine = start < end <= seq and end - start == record["count"]
                    fine &= minus([(start, end)], lost + excused) == [(start, end)]
                    self.expect(fine, f"segment {number:06}: RecordsLost {start} to {end - 1} is no range, or there twice")
                    lost.append((start, end))
                elif event == "TailRecovered":
                    fine = record["segment"] == behind and record["highest_seq"] < seq
                    self.expect(fine, f"segment {number:06}: TailRecovered is about something else")
                    excused.append((base + 1, min(record["highest_seq"] + 1, seq)))
                    self.expect(highest in (None, record["highest_seq"]), f"the highest number is {highest}")
                    killed += excused[-1:] if left else []
        known = sorted(seq for seq in there if seq <= ordinary)
        gaps = [(before + 1, seq) for before, seq in zip([-1] + known, known)] if first is not None else []
        gaps = minus(minus(gaps, [(0, first or 0)]), lost)
        said = [span for span in lost if bisect.bisect(known, span[1] - 1) > bisect.bisect_left(known, span[0])]
        self.expect(not said, f"numbers {said} are said to be lost, but are there")
        self.expect(not minus(gaps, excused), f"numbers {minus(gaps, excused)[:9]} are missing")
        self.missing |= {"records"} if lost or minus(gaps, killed) else set()
        self.missing |= {"killed runs"} if killed else set()
    def shape(self, runs):
        """Format 2: a run is opened and closed, and then comes nothing but the next one. `runs` as for numbers."""
        state, format = "unknown" if runs[0][0] else "begin", 0
        for number, records in runs:
            state, format = (state, format) if records is not None else ("unknown", 0)
            for record in records or []:
                event = record["event"]
                if event == "TrailOpened":
                    state = "unclosed" if state in ("open", "opened", "unclosed") else "opened"
                    format = record["format"]
                    continue
                if event == "SegmentOpened":
                    fine = state == "unknown" or state in ("open", "opened") and record["format"] == format
                    format = max(format, record["format"])
                elif event == "TailRecovered":
                    fine = state in ("opened", "unclosed") and record["line"] == 1
                else:
                    fine = state not in ("closed", "unclosed")
                state = "closed" if event == "TrailClosed" else "open"
                self.expect(fine or format < 2, f"segment {number:06}: number {record['seq']} has no place there in a run")
    def void(self, number, header, records, data, end):
        tails = [record for record in records if record["event"] == "TailRecovered" and header["event"] == "TrailOpened"]
        found = sum(record["void_bytes"] for record in tails if record["line"] == 1)
        allowed = header["previous"].get("void", found if header["event"] == "TrailOpened" else len(data))
        fine = all(record["void_from"] == end and len(data) - end <= record["void_bytes"] for record in tails)
        self.expect(fine and len(data) - end <= allowed,
                    f"segment {number:06}: the void bytes before it are not those that were left")
    def voided(self, number, header):
        """What a header declares void: signed behind the segment before, and never acknowledged."""
        previous = header.get("previous", {}) if header.get("format", 1) > 1 else {}
        voided = [(entry["size"], b64(entry["root"])) for entry in previous.get("voided", [])]
        fine = len(voided) <= 64 and previous.get("voided_total", 65) > len(voided) and all(
            type(size) is int and header["first_leaf"] < size < 2**64 and len(root) == 32 for size, root in voided)
        self.expect(fine, f"segment {number:06} declares void what is no checkpoint behind the one before")
        return voided
    def trail(self, directory, anchor):
        names = [name for name in os.listdir(directory) if re.fullmatch(r"([0-9]{6}|[1-9][0-9]{6,})\.jsonl", name)]
        numbers = sorted(int(name[:-6]) for name in names if int(name[:-6]) < 2**64)
        if not numbers or not self.keys:
            return self.unchecked.append("there is no segment, or no key")
        self.expect(numbers == list(range(numbers[0], numbers[0] + len(numbers))), "segments are missing")
        data = [pathlib.Path(directory, f"{number:06}.jsonl").read_bytes() for number in numbers]
        headers = [read(text.split(b"\n")[0])[1] for text in data]
        ends = [header["previous"]["end"] for header in headers[1:]] + [None]
        ours = any(head["key"] in self.keys and self.keys[head["key"]].name == head["origin"] for head in headers)
        notes = alone(anchor) if anchor else {}
        known = [(key, notes.get((key.name, key.hash), "")) for key in self.keys.values()]
        known = [(key, note) for key, note in known if note]
        sure = any(known) and all(len(b64(note.split()[-1])) == 68 and key.signed(note) for key, note in known)
        held, denied = parse(known[0][1])[:3] if sure else ("", -1, b""), False
        tree, runs, before, last, old = Tree(), [], None, None, b""
        for number, header, text, end in zip(numbers, headers, data, ends):
            if header["format"] > 2:
                self.unchecked.append(f"segment {number:06} is written in format {header['format']}")
                before = runs.append((number, None))
                continue
            previous = header.get("previous", {"segment": -1, "frontier": []})
            self.expect(header["format"] == 1 or not number or "void" in previous,
                        f"segment {number:06} does not say how many void bytes there are before it")
            self.expect(header["event"] in HEADERS and (header["segment"], previous["segment"]) == (number, number - 1),
                        f"segment {number:06} has no header, or that of another segment")
            origin, size, root = parse(previous["checkpoint"])[:3] if number else (header["origin"], 0, b"")
            nodes = [b64(node) for node in previous["frontier"]]
            fine = not before or (before == [header["key"], previous["end"], previous["checkpoint"]]
                                  and [tree.node(*part) for part in frontier(size)] == nodes)
            self.expect(fine, f"segment {number:06} does not go on where the one before ends")
            tree = tree if before else Tree(size, nodes)
            if (len(nodes), header["first_leaf"], header["origin"]) != (len(frontier(size)), size, origin) or (
                    number and root != tree.node(0, size)):
                raise ValueError(f"segment {number:06}: the frontier does not fit")
            key = self.keys.get(header["key"])
            if key is None or key.name != header["origin"]:
                notes = [value for kind, value in map(read, text.split(b"\n")) if kind == "checkpoint"]
                wrong = any(key.signed(note) for key in self.keys.values() for note in notes)
                wrong |= ours and all(key.name != header["origin"] for key in self.keys.values())
                words = f"segment {number:06}: its key was not given, or has not signed it: {header['key']}"
                before = (self.problems if wrong else self.unchecked).append(words) or runs.append((number, None))
                continue
            records, good, note = self.segment(number, header, text, tree, key, end)
            if before:
                self.void(number, header, records, old, before[1])
            denied |= held[1:] in self.voided(number, header) and bool(records)
            last, old = records[-1] if records else {"event": None}, text
            before = [last["key"] if last["event"] == "KeyChanged" else header["key"], good, note]
            runs.append((number, records))
        self.numbers(runs)
        self.shape(runs)
        closed = before and last["event"] == "TrailClosed" and good == len(text)
        lacks = {"older segments": numbers[0], "close": not closed, "tail": before and good < len(text)}
        name, size, root = held
        sure = name == origin
        comparable = size >= tree.size or (numbers[0] == 0 and 0 < size and not self.unchecked)
        fine = not (sure and before and comparable) or (size <= tree.size and root == tree.node(0, size))
        denied = denied and not fine
        self.expect(fine or denied, f"the anchor at {size} leaves contradicts the trail")
        lacks["anchor"], lacks["end"] = denied, denied or not (sure and before and size == tree.size)
        self.missing |= {what for what, is_missing in lacks.items() if is_missing}

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    result = Check(sys.argv[1], sys.argv[2].split(","), *(pathlib.Path(path).read_text("utf-8") for path in sys.argv[3:]))
    words = [WORDS[result.status], *result.problems, *result.unchecked, *sorted(result.missing)]
    sys.exit(print("\n  ".join(words)) or result.status)
