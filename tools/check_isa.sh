#!/usr/bin/env bash
# Vector code must stay where it was dispatched to: only *_avx512.o and *_amx.o may hold AVX-512 instructions, only they and
# *_avx2.o may hold AVX ones, and none may define a weak function, which the linker could choose for the whole program
# (a standard template first instantiated in a target region is how that happens). Constants may be weak (nm: V, u).
#   tools/check_isa.sh [BUILD_DIRECTORY]
set -euo pipefail
build=${1:-"$(dirname "$0")/../build/release"}
mapfile -t objects < <(find "$build/src" -path '*/qnext*.dir/*' -name '*.o' ! -path '*_test.dir/*' | sort)
if ((${#objects[@]} == 0)); then
  echo "check_isa: no objects under $build/src" >&2
  exit 1
fi
failed=0
report() {
  echo "check_isa: $1: $2" >&2
  failed=1
}
kernels=0
for object in "${objects[@]}"; do
  case $object in
    */*_avx512.cc.o | */*_amx.cc.o) forbidden='' ;;
    */*_avx2.cc.o) forbidden='%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])' ;;
    *) forbidden='%zmm|%ymm|%k[0-7]|[[:space:]]v[a-z0-9]+[[:space:]].*%xmm' ;;
  esac
  if [[ -n $forbidden ]]; then
    found=$(objdump -d --no-show-raw-insn "$object" | grep -E -m1 -- "$forbidden" || true)
    [[ -z $found ]] || report "$object" "instruction outside its set: $found"
  fi
  if [[ $object == */*_avx2.cc.o || $object == */*_avx512.cc.o || $object == */*_amx.cc.o ]]; then
    kernels=$((kernels + 1))
    weak=$(nm -C --defined-only "$object" | grep -E ' W ' || true)
    [[ -z $weak ]] || report "$object" "weak functions: $weak"
    # Not grep -q: it would end the pipe early, and pipefail make that a failure.
    objdump -d --no-show-raw-insn "$object" | grep -E '%ymm|%zmm' >/dev/null || report "$object" "no vector code at all"
  fi
done
expected=$(find "$(dirname "$0")/../src" -name "*_avx2.cc" -o -name "*_avx512.cc" -o -name "*_amx.cc" | wc -l)
((kernels == expected)) || report "$build" "expected $expected vector kernel objects, found $kernels"
((failed == 0)) && echo "check_isa: ${#objects[@]} objects, each within its instruction set"
exit "$failed"
