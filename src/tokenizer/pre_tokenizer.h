#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

/// The split pattern of Qwen2, Qwen2.5, Qwen3 and Qwen3-Next.
inline constexpr std::string_view kQwenPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Where the piece of kQwenPattern that begins at `begin` ends. Requires well-formed UTF-8 and begin < text.size().
/// The pattern matches at every position, so pieces follow each other without gaps.
size_t qwen_piece_end(std::string_view text, size_t begin);

/// Cuts text into the pieces that byte-pair merging may not cross: the matches of a pattern, and what lies between
/// them ("Split" with behavior "Isolated"). Immutable and thread-safe.
///
/// The Qwen pattern is scanned by hand, in linear time, with the classes of the `tokenizers` library. Any other goes
/// to PCRE2's JIT and takes the time it was written to take. There PCRE2's Unicode (14.0 in version 10.42, and U+180E
/// is a space) and its syntax in rare constructs differ from those of Oniguruma, which the library uses.
class PreTokenizer {
 public:
  /// Throws Error with PCRE2's message when the pattern does not compile.
  explicit PreTokenizer(std::string pattern);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  const std::string& pattern() const { return pattern_; }

  /// Calls use(piece) for every piece of well-formed UTF-8, in order. Throws Error when PCRE2 gives up on a match
  /// (its limits on steps and stack).
  template <class Use>
  void for_each_piece(std::string_view text, Use&& use) const {
    if (!regex_) {
      for (size_t begin = 0; begin < text.size();) {
        const size_t end = qwen_piece_end(text, begin);
        use(text.substr(begin, end - begin));
        begin = end;
      }
      return;
    }
    size_t begin = 0;
    for (const size_t end : regex_piece_ends(text)) {
      use(text.substr(begin, end - begin));
      begin = end;
    }
  }

 private:
  struct Regex;
  std::vector<size_t> regex_piece_ends(std::string_view text) const;

  std::string pattern_;
  std::unique_ptr<Regex> regex_;  ///< null: the Qwen pattern
};

}  // namespace qnext
