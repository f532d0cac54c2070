#!/usr/bin/env bash
# Builds the tests and the bench that need a GPU, and packs them into target/gpu with the script that runs
# them. For a machine that has a GPU and no Rust: copy the folder there, and run `gpu/run.sh`.
#
# VRAM_SIMULATED_GPU=1 adds the simulated driver, to try the folder on a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=target/gpu
limit_mib=16

# Prints the path of the executable that cargo reports.
built() {
    CARGO_TERM_COLOR=never cargo "$@" --locked --features cuda --no-run 2>&1 | tee /dev/stderr |
        sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
}

rm -rf "$out"
mkdir -p "$out"
tests=$(built test --release --test gpu)
bench=$(built bench --bench gpu)
strip -o "$out/tests" "$tests"
strip -o "$out/bench" "$bench"
cp benches/gpu/run.sh "$out/run.sh"
if [ "${VRAM_SIMULATED_GPU:-}" = 1 ]; then
    strip --strip-unneeded -o "$out/libsimulated_cuda.so" "$(dirname "$bench")/libsimulated_cuda.so"
fi

mib=$(du -sm "$out" | cut -f1)
echo "$out: $mib MiB"
[ "$mib" -lt "$limit_mib" ] || {
    echo "$out has $mib MiB, and $limit_mib are the limit" >&2
    exit 1
}
