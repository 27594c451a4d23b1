#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

/// An entry of tokenizer.json's added_tokens: text that becomes one id before anything else looks at it.
struct AddedToken {
  static constexpr size_t kMaxBytes = 1024;  ///< bounds the work per position of a text

  std::string content;
  std::string text;  ///< what it is matched as: the content, or its normalized form
  int32_t id = -1;
  bool special = false;                          ///< hidden by decode(skip_special)
  bool normalized = false;                       ///< matched in the normalized text
  bool strip_left = false, strip_right = false;  ///< the match takes the spaces beside it
};

/// Finds added tokens in text: leftmost first, the longest of those that begin at the same place, as the `tokenizers`
/// library does. Immutable and thread-safe.
class AddedTokenMatcher {
 public:
  struct Token {
    std::string text;  ///< not empty; no two tokens have the same
    int32_t id;
    bool strip_left, strip_right;
  };
  explicit AddedTokenMatcher(std::vector<Token> tokens);

  bool empty() const { return tokens_.empty(); }

  /// Calls use_text(view) for text between tokens and use_token(id) for each token, in order. Empty text is not
  /// passed on. Requires well-formed UTF-8.
  template <class UseText, class UseToken>
  void split(std::string_view text, UseText&& use_text, UseToken&& use_token) const {
    size_t done = 0;
    SpaceRun run;
    for (size_t from = 0; from < text.size();) {
      const Match match = find(text, from);
      if (!match.token) break;
      from = match.begin + match.token->text.size();
      // As in the library, stripping does not move where the search goes on.
      const size_t begin = match.token->strip_left ? spaces_before(text, match.begin, done) : match.begin;
      const size_t end = match.token->strip_right ? run.end_from(text, from) : from;
      if (done < begin) use_text(text.substr(done, begin - done));
      use_token(match.token->id);
      done = end;
    }
    if (done < text.size()) use_text(text.substr(done));
  }

 private:
  struct Match {
    const Token* token = nullptr;
    size_t begin = 0;
  };
  /// The run of spaces seen last: a token that is itself a space could else rescan a run from each of its places.
  struct SpaceRun {
    size_t begin = 0, end = 0;
    size_t end_from(std::string_view text, size_t i);
  };
  Match find(std::string_view text, size_t from) const;
  /// Where the run of spaces that ends at `end` begins, not before `bound`.
  static size_t spaces_before(std::string_view text, size_t end, size_t bound);

  std::vector<Token> tokens_;  ///< sorted by text
  uint32_t first_[257] = {};   ///< tokens with first byte b are tokens_[first_[b], first_[b + 1])
  int only_first_byte_ = -1;   ///< when all tokens begin with the same byte
};

}  // namespace qnext
