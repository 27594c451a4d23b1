#include "base/cpu.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "base/error.h"

namespace qnext {

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAmx: return "amx";
  }
  QNEXT_CHECK(false, "unknown isa {}", static_cast<int>(isa));
}

std::optional<Isa> isa_from_name(std::string_view name) {
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa_name(isa) == name) return isa;
  }
  return std::nullopt;
}

namespace {
/// XCR0: which register files the operating system saves on a context switch.
__attribute__((target("xsave"))) uint64_t xgetbv0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}
}  // namespace

Isa detect_isa() {
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return Isa::kScalar;
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kLeaf1 = kFma | kOsxsave | kAvx | kF16c;
  if ((c & kLeaf1) != kLeaf1) return Isa::kScalar;
  const uint64_t saved = xgetbv0();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xE6;
  if ((saved & kYmm) != kYmm || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return Isa::kScalar;
  constexpr uint32_t kAvx2 = 1u << 5, kBmi2 = 1u << 8;
  if ((b & kAvx2) == 0 || (b & kBmi2) == 0) return Isa::kScalar;
  constexpr uint32_t kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  if ((b & kAvx512) != kAvx512 || (saved & kZmm) != kZmm) return Isa::kAvx2;
  constexpr uint32_t kVnni = 1u << 11, kAmx = 1u << 24 | 1u << 25;  // tiles, int8
  constexpr uint64_t kTileState = 0x60000;
  if ((c & kVnni) == 0 || (d & kAmx) != kAmx || (saved & kTileState) != kTileState) return Isa::kAvx512;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? Isa::kAmx : Isa::kAvx512;
}

bool has_avx512_vnni() {
  uint32_t a, b, c, d;
  return detect_isa() >= Isa::kAvx512 && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (c & 1u << 11) != 0;
}

Bf16 detect_bf16() {
  const Isa isa = detect_isa();
  uint32_t a, b, c, d;
  if (isa < Isa::kAvx512 || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return Bf16::kNone;
  constexpr uint32_t kAmxBf16 = 1u << 22, kAvx512Bf16 = 1u << 5;
  const bool tiles = isa == Isa::kAmx && (d & kAmxBf16) != 0;
  if (a == 0 || __get_cpuid_count(7, 1, &a, &b, &c, &d) == 0) return Bf16::kNone;  // a: the last subleaf
  // Tiles without the other, which a virtual machine may show, are as good as none: the kernels of both are one file.
  return (a & kAvx512Bf16) == 0 ? Bf16::kNone : tiles ? Bf16::kAmx : Bf16::kAvx512;
}

namespace {
/// What QNEXT_ISA forces, if anything.
std::optional<Isa> forced_isa(Isa best) {
  const char* forced = std::getenv("QNEXT_ISA");
  if (forced == nullptr || *forced == '\0') return std::nullopt;
  const std::optional<Isa> isa = isa_from_name(forced);
  if (!isa) throw Error(fmt::format("QNEXT_ISA: expected scalar, avx2, avx512 or amx, found {}", quoted(forced)));
  if (*isa > best) {
    throw Error(fmt::format("QNEXT_ISA: expected at most {} on this machine, found {}", isa_name(best), forced));
  }
  return isa;
}
}  // namespace

Isa chosen_isa() {
  const Isa best = detect_isa();
  return forced_isa(best).value_or(std::min(best, Isa::kAvx512));
}

Bf16 chosen_bf16() {
  const Bf16 best = detect_bf16();
  const Isa most = forced_isa(detect_isa()).value_or(Isa::kAmx);
  return most < Isa::kAvx512 ? Bf16::kNone : most < Isa::kAmx ? std::min(best, Bf16::kAvx512) : best;
}

const std::vector<int>& allowed_cpus() {
  static const std::vector<int> cpus = [] {
    std::vector<int> list;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) list.push_back(cpu);
      }
    }
    if (list.empty()) list.push_back(0);
    return list;
  }();
  return cpus;
}

}  // namespace qnext
