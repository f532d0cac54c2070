#!/usr/bin/env bash
# Runs the programs packed by pack.sh: the tests, then the bench. Needs NVIDIA's driver and no Rust.
#
#   run.sh [SECONDS FOR THE TESTS, 240] [SECONDS FOR THE BENCH, 180]
#
# With OUT set, keeps their output in $OUT/tests.txt and $OUT/bench.txt. Exits with 1 if a test failed, a
# result was wrong, or the time was over. Requires a GPU, unless VRAM_SIMULATED_GPU is set.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tests_s=${1:-240}
bench_s=${2:-180}
kept=${OUT:-}
own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT
[ -n "$kept" ] || kept=$own
mkdir -p "$kept"
[ -n "${VRAM_SIMULATED_GPU:-}" ] || export VRAM_REQUIRE_GPU=1
# With a shared cache, the driver compiles the kernel once instead of in each process.
export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$own/cache}
failed=0

timeout "$tests_s" "$here/tests" >"$kept/tests.txt" 2>&1 || {
    echo "FAILED: the tests ended with $? (124: their $tests_s s were over)"
    sed -n '/^failures:$/,$p' "$kept/tests.txt" | tail -n 200
    failed=1
}
grep -E '^test .*FAILED|SKIPPED|^running|found no GPU' "$kept/tests.txt"
grep '^test result:' "$kept/tests.txt" || {
    echo 'FAILED: the tests did not come to their end; last lines:'
    tail -n 20 "$kept/tests.txt"
    failed=1
}

# The bench must begin no new figure shortly before the timeout.
begun_s=$((bench_s > 20 ? bench_s - 10 : bench_s))
timeout "$bench_s" "$here/bench" "$begun_s" >"$kept/bench.txt" 2>&1 || {
    echo "FAILED: the bench ended with $? (124: its $bench_s s were over)"
    failed=1
}
cat "$kept/bench.txt"
exit "$failed"
