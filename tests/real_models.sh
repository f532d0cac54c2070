#!/usr/bin/env bash
# Runs real model files from packages through the example worker, and compares with tools of others:
#
# - `fsverity` must print the sealed digest;
# - the SHA-256 that the package's RECORD publishes must be accepted;
# - a SHA-256 with a changed digit must be an incident with a critical record.
#
# usage: tests/real_models.sh    (needs python3 with pip, fsverity, openssl, jq)
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --release --example worker
worker=$target/release/examples/worker
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# check PACKAGE==VERSION FILE-IN-WHEEL
check() {
    local package=$1 file=$2 published sealed changed trail
    echo "== $package: $file"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --dest "$dir/wheels" "$package"
    # Prints the published SHA-256 in hexadecimal, and unpacks the file.
    published=$(python3 - "$dir" "$file" <<'PYTHON'
import base64, glob, sys, zipfile
directory, name = sys.argv[1:]
for wheel in glob.glob(directory + "/wheels/*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.endswith(name)]
        if not names:
            continue
        archive.extract(names[0], directory + "/files")
        record = next(n for n in archive.namelist() if n.endswith(".dist-info/RECORD"))
        for line in archive.read(record).decode().splitlines():
            path, digest, _size = line.rsplit(",", 2)
            if path == names[0]:
                text = digest.removeprefix("sha256=")
                print(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex())
PYTHON
    )
    [ ${#published} = 64 ] || fail "no published SHA-256 for $file"
    model=$(find "$dir/files" -name "$(basename "$file")")
    trail=$dir/$(basename "$file").trail

    "$worker" "$model" --trail "$trail" --expect "sha256sum:$published" >"$dir/story" ||
        fail "the published SHA-256 was not accepted"
    sealed=$(sed -n 's/^digest: shard-0000 //p' "$dir/story")
    [ "$sealed" = "$(fsverity digest "$model" | cut -d' ' -f1)" ] ||
        fail "sealed $sealed, but fsverity prints another digest"
    # The commands that the example prints for its reader.
    sed -n 's/^  \(fsverity\|openssl\) /\1 /p' "$dir/story" | bash -e || fail "a printed command fails"
    "$worker" "$model" --trail "$trail" --expect "fsverity:${sealed#sha256:}" --keep-clean >/dev/null ||
        fail "fsverity's digest was not accepted"

    changed=$(tr '0123456789abcdef' '123456789abcdef0' <<<"${published:0:1}")${published:1}
    if "$worker" "$model" --trail "$trail" --expect "sha256sum:$changed" >/dev/null 2>"$dir/error"; then
        fail "a SHA-256 with a changed digit was accepted"
    fi
    grep -q provenance_mismatch "$dir/error" || fail "$(cat "$dir/error")"
    cat "$trail"/*.jsonl | jq -e -s --arg expected "$changed" '
        [.[] | select(.event == "SealVerificationFailed" and .reason == "provenance_mismatch"
                      and .severity == "CRITICAL" and .expected == $expected)] | length == 1' \
        >/dev/null || fail "no critical record of the changed digit"
    echo "   fsverity prints $sealed, too; the published SHA-256 is accepted, a changed one is on record"
}

check silero-vad==6.2.3 silero_vad/data/silero_vad_16k.safetensors
check wordllama==0.4.0.post1 weights/l2_supercat_256.safetensors
