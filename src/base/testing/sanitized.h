#pragma once

namespace qnext::testing {

/// True in sanitizer builds, which are ten times slower: they look for memory errors, and need not repeat every size
/// and instruction set that the release build compares numbers on.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace qnext::testing
