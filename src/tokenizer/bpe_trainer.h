#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qnext {

/// Learns a byte-level BPE: the 256 bytes, then the most frequent pair of neighbours merged again and again, inside
/// the pieces of the Qwen split pattern. Of equally frequent pairs the one with the smaller left id is merged first,
/// then the one with the smaller right id, as the `tokenizers` library's BpeTrainer does; ids are given in the
/// library's order. So the result depends on the texts' words and their counts alone.
class BpeTrainer {
 public:
  struct Options {
    int32_t vocab_size = 0;                   ///< special tokens included
    uint64_t min_frequency = 1;               ///< pairs that occur less often are not merged
    std::vector<std::string> special_tokens;  ///< the last ids, in this order
  };
  struct Result {
    std::vector<std::string> tokens;                  ///< bytes by id: 256 single ones, then one per merge
    std::vector<std::pair<int32_t, int32_t>> merges;  ///< ids, in order of rank
    std::vector<std::string> special_tokens;

    size_t vocab_size() const { return tokens.size() + special_tokens.size(); }
  };

  /// Throws Error for a vocabulary too small to hold the bytes and the special tokens, and for special tokens that
  /// are empty or there twice.
  explicit BpeTrainer(Options options);
  ~BpeTrainer();

  /// Counts the words of a text: any bytes, normalized and cut as encode() does. The special tokens' names in it are
  /// left out. Memory grows with the number of different words.
  void add(std::string_view text);
  uint64_t different_words() const;

  /// Fewer tokens than asked for when no pair is left that occurs min_frequency times. Calls progress(merges, wanted)
  /// now and then.
  Result train(const std::function<void(int64_t, int64_t)>& progress = nullptr) const;

 private:
  struct Words;
  Options options_;
  std::unique_ptr<Words> words_;
};

/// The tokens that chat models of the Qwen family need: <|endoftext|>, <|im_start|>, <|im_end|>, and those of tool
/// calls and thinking.
const std::vector<std::string>& default_special_tokens();

/// The tokenizer.json of a result, as the `tokenizers` library writes it: NFC, the Qwen split pattern, byte level.
/// Tokens of the form <|...|> are special, the other added ones are not, so that they stay visible in decoded text.
std::string tokenizer_json(const BpeTrainer::Result& result);
/// The tokenizer_config.json beside it: eos_token <|im_end|>, else <|endoftext|>; pad_token <|endoftext|>.
std::string tokenizer_config_json(const BpeTrainer::Result& result);

}  // namespace qnext
