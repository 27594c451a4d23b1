#!/usr/bin/env bash
# Vector code must stay where it was dispatched to: only {kernels,quant}_avx512.o may hold AVX-512 instructions, only they
# and {kernels,quant}_avx2.o may hold AVX ones, and neither may define a weak symbol, which the linker could choose for the whole
# program (a standard template first instantiated in a target region is how that happens).
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
    */kernels_avx512.cc.o | */quant_avx512.cc.o) forbidden='' ;;
    */kernels_avx2.cc.o | */quant_avx2.cc.o) forbidden='%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])' ;;
    *) forbidden='%zmm|%ymm|%k[0-7]|[[:space:]]v[a-z0-9]+[[:space:]].*%xmm' ;;
  esac
  if [[ -n $forbidden ]]; then
    found=$(objdump -d --no-show-raw-insn "$object" | grep -E -m1 -- "$forbidden" || true)
    [[ -z $found ]] || report "$object" "instruction outside its set: $found"
  fi
  if [[ $object == */kernels_avx*.cc.o || $object == */quant_avx*.cc.o ]]; then
    kernels=$((kernels + 1))
    weak=$(nm -C --defined-only "$object" | grep -E ' [WVu] ' || true)
    [[ -z $weak ]] || report "$object" "weak symbols: $weak"
    # Not grep -q: it would end the pipe early, and pipefail make that a failure.
    objdump -d --no-show-raw-insn "$object" | grep -E '%ymm|%zmm' >/dev/null || report "$object" "no vector code at all"
  fi
done
((kernels == 4)) || report "$build" "expected 4 vector kernel objects, found $kernels"
((failed == 0)) && echo "check_isa: ${#objects[@]} objects, each within its instruction set"
exit "$failed"
