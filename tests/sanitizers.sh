#!/usr/bin/env bash
# Runs unit tests, and tests of shards, threads, callbacks and the trail, under AddressSanitizer and ThreadSanitizer.
# The standard library is instrumented, too: otherwise ThreadSanitizer reports its locks as races.
#
# usage: tests/sanitizers.sh [address] [thread]    (both by default; needs a nightly with rust-src; 4 GB of disk)
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- address thread
# Tests leak on purpose: one case is a lease that is never dropped.
export ASAN_OPTIONS=detect_leaks=0
# Tests fork while other threads run; the child calls little more than `_exit`. Some tests end with threads that hang on
# purpose.
export TSAN_OPTIONS='die_after_fork=0 report_thread_leaks=0'
# A backtrace takes seconds, and tests of panics have time limits.
export RUST_BACKTRACE=0
export CARGO_PROFILE_DEV_DEBUG=${CARGO_PROFILE_DEV_DEBUG:-line-tables-only}
# The simulated disk uses one thread: more seeds find more bugs of the trail, not of memory.
export VRAM_SIM_SEEDS=${VRAM_SIM_SEEDS:-300}

failed=0

# Under the sanitizer; goes on after a failure.
sanitized() {
    RUSTFLAGS="-Zsanitizer=$sanitizer" CARGO_TARGET_DIR=target/sanitized/$sanitizer \
        cargo +nightly test --locked --no-fail-fast -Zbuild-std --target x86_64-unknown-linux-gnu "$@" || failed=1
}

for sanitizer; do
    echo "=== $sanitizer"
    sanitized -p vram-residency -p vram-trail -p vram-digest --lib
    sanitized --test shards
    sanitized --test monitoring foreign::
    sanitized --test trail -- asked_again:: ending:: faults:: life::
done
exit "$failed"
