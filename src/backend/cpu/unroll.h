#pragma once

/// Before a loop whose body indexes an array of vectors: unrolled, the array lives in registers (g++ -O2 would not).
#if defined(__clang__)
#define QNEXT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QNEXT_UNROLL _Pragma("GCC unroll 16")
#endif
