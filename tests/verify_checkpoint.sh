#!/bin/sh
# verify_checkpoint.sh TEXT SIGNATURE KEY: checks one checkpoint of an audit trail with OpenSSL alone.
#
# TEXT is the signed text (origin, size, root, each with its newline), SIGNATURE the 64 bytes of the
# Ed25519 signature, KEY the verifier key as PEM. Exit status 0 only if the signature is good.
set -eu

if [ $# -ne 3 ]; then
    echo "usage: $0 TEXT SIGNATURE KEY" >&2
    exit 2
fi
exec openssl pkeyutl -verify -pubin -inkey "$3" -rawin -in "$1" -sigfile "$2"
