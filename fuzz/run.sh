#!/bin/sh
# Runs every fuzz target for SECONDS, all at once: fuzz/run.sh [SECONDS] [BUILD_DIRECTORY]
# Build them first: cmake --preset fuzz && cmake --build --preset fuzz --target fuzzers
# Prints one line per target and fails if any failed; the input that did it stays in BUILD_DIRECTORY/fuzz/work/NAME/.
# The seed is always the same, so that a change is judged by what it changed and not by luck; new finds come from
# QNEXT_FUZZ_SEED=0 (another seed each time) and more seconds.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
build=${2:-build/fuzz}

# The corpus in the tree is only read: new inputs go to the first directory that libFuzzer gets.
run_one() {
  name=$1
  work=$build/fuzz/work/$name
  rm -rf "$work"
  mkdir -p "$work/corpus" "fuzz/corpus/$name"
  if "$build/fuzz/${name}_fuzz" -seed="${QNEXT_FUZZ_SEED:-1}" -max_total_time="$seconds" -timeout=10 \
      -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$work/" "$work/corpus" "fuzz/corpus/$name" > "$work/log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/log" | tail -n 1)
    echo "$name: ok, $runs runs, coverage ${coverage:-none}"
  else
    echo "$name: FAILED, see $work/log"
    grep -m 1 -E 'ERROR|check failed|runtime error|Test unit written' "$work/log" || tail -n 5 "$work/log"
    return 1
  fi
}

jobs=""
for target in "$build"/fuzz/*_fuzz; do
  [ -x "$target" ] || { echo "no fuzz targets in $build/fuzz: build them first" >&2; exit 1; }
  name=$(basename "$target" _fuzz)
  run_one "$name" &
  jobs="$jobs $!"
done
status=0
for job in $jobs; do
  wait "$job" || status=1
done
exit $status
