#!/bin/sh
# verify_checkpoint.sh TEXT SIGNATURE KEY: verifies one checkpoint of an audit trail with OpenSSL alone.
#
# TEXT is the signed text (origin, size, root, each with its newline), SIGNATURE the 64 bytes of the
# Ed25519 signature, KEY the verifier key as PEM. The exit status is 0 only if the signature is valid.
set -eu

if [ $# -ne 3 ]; then
    echo "usage: $0 TEXT SIGNATURE KEY" >&2
    exit 2
fi
exec openssl pkeyutl -verify -pubin -inkey "$3" -rawin -in "$1" -sigfile "$2"
