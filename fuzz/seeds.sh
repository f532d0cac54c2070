#!/usr/bin/env bash
# Creates the committed seeds from the trail that version 0.1.0 wrote.
set -euo pipefail
cd "$(dirname "$0")"

trail=../tests/fixtures/trail-0.1
mkdir -p seeds/{segments,forged,notes,ids,proofs}

# The whole trail, the trail without its oldest segments, and the trail cut off after a checkpoint.
whole() {
    local between=
    for segment in "$trail"/*.jsonl; do
        printf %b "$between"
        cat "$segment"
        between='\x1e'
    done
}
whole >seeds/segments/whole
(printf '\x1e\x1e\x1e' && cat "$trail/000003.jsonl") >seeds/segments/last
sed '/^{"checkpoint"/q' "$trail/000000.jsonl" >seeds/segments/first-batch

# The same lines without signatures: the fuzz target signs them.
void() {
    head -c "$2" "$trail/$1" && echo V && tail -c "+$(($2 + 1))" "$trail/$1"
}
{
    cat "$trail/000000.jsonl" && printf '\x1e'
    void 000001.jsonl 2926 && printf '\x1e'
    void 000002.jsonl 1858 && printf '\x1e'
    cat "$trail/000003.jsonl"
} | sed 's/^{"checkpoint":"[^"]*"}$/C/' >seeds/forged/whole
sed 's/^{"checkpoint":"[^"]*"}$/C/' "$trail/000000.jsonl" >seeds/forged/first

cp "$trail/anchor.txt" seeds/notes/checkpoint
printf %s "$(cat "$trail/verifier-key.txt")" >seeds/notes/key

# A witness's signature line before the trail's own (76 bytes), and one after it (2 428 bytes).
cosigned() {
    ed25519="— witness.example/w1 $(head -c 76 /dev/zero | base64 -w 0)"
    ml_dsa="— witness.example/w2 $(head -c 2428 /dev/zero | base64 -w 0)"
    sed -e '/^— /i '"$ed25519" -e '$a '"$ml_dsa" "$1"
}
cosigned "$trail/anchor.txt" >seeds/notes/cosigned

prove() {
    cargo run --quiet --manifest-path ../audit/Cargo.toml -- \
        prove "$trail" "$1" --key "$(cat "$trail/verifier-key.txt")"
}
prove 0 >seeds/proofs/first
prove 52 >seeds/proofs/last
cosigned seeds/proofs/last >seeds/proofs/cosigned

# The text, then index and total with four bytes each.
printf 'shard_0-a\0\0\0\0\1\0\0\0' >seeds/ids/shard
printf 'registry:5000/m/Llama-3.1:v1\0\0\0\0\2\0\0\0' >seeds/ids/model
