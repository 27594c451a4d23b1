#pragma once
#include <optional>
#include <string_view>
#include <vector>

namespace qnext {

/// Instruction sets that kernels are compiled for, weakest first.
enum class Isa { kScalar, kAvx2, kAvx512, kAmx };

std::string_view isa_name(Isa isa);  ///< "scalar", "avx2", "avx512", "amx"
std::optional<Isa> isa_from_name(std::string_view name);

/// The best instruction set that the CPU has and the operating system saves (CPUID and XGETBV, never a model number). For
/// AMX it asks the system for permission to use the tiles.
Isa detect_isa();
/// The byte products that the AVX-512 kernels of block types use (vpdpbusd): not every AVX-512 machine has them.
bool has_avx512_vnni();
/// Instructions that multiply bf16 and sum in f32, weakest first: vdpbf16ps, and the tiles of AMX (tdpbf16ps).
enum class Bf16 { kNone, kAvx512, kAmx };
/// The best that the CPU has and the operating system lets it use.
Bf16 detect_bf16();
/// detect_bf16(), held back by QNEXT_ISA: none below avx512, no tiles below amx. Throws as chosen_isa().
Bf16 chosen_bf16();
/// detect_isa(), but AMX only when asked for: its kernels are checked on emulated tiles and wait for their measurements
/// on such a machine. Or what the environment variable QNEXT_ISA forces. Throws Error when it names an unknown set or one
/// that this machine lacks.
Isa chosen_isa();

/// CPUs this process may run on, as it was started (pinning by thread pools does not change the answer).
const std::vector<int>& allowed_cpus();

}  // namespace qnext
