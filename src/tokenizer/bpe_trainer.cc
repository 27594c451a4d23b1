#include "tokenizer/bpe_trainer.h"

#include <simdjson.h>

#include <algorithm>
#include <numeric>
#include <queue>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/hash.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocabulary.h"

namespace qnext {

namespace {

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

AddedTokenMatcher matcher_of(const std::vector<std::string>& tokens) {
  std::vector<AddedTokenMatcher::Token> matched;
  for (const std::string& text : tokens) matched.push_back({text, 0, false, false});
  return AddedTokenMatcher(std::move(matched));
}

/// The bytes in the order in which the library numbers them: that of their characters in GPT-2's alphabet.
std::vector<unsigned char> bytes_in_order() {
  std::vector<std::pair<uint32_t, unsigned char>> characters;
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    characters.emplace_back(utf8_character(alphabet_text({&byte, 1}), 0).code, static_cast<unsigned char>(b));
  }
  std::ranges::sort(characters);
  std::vector<unsigned char> bytes;
  for (const auto& [code, byte] : characters) bytes.push_back(byte);
  return bytes;
}

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& pair) const {
    return hash_mix(static_cast<uint32_t>(pair.first), static_cast<uint32_t>(pair.second));
  }
};

/// All different words as ids, with the counts of their pairs kept up to date while pairs are merged.
class MergeTable {
 public:
  struct Candidate {
    int64_t count;
    Pair pair;
    /// The heap's greatest comes first: the most frequent, of those the smallest pair.
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  void add_word(std::vector<int32_t> ids, int64_t count) {
    const auto word = static_cast<uint32_t>(words_.size());
    for (size_t i = 1; i < ids.size(); ++i) change({ids[i - 1], ids[i]}, count, word);
    words_.push_back({std::move(ids), count});
  }

  /// Puts pairs whose counts rose since the last call into the heap.
  void publish() {
    for (const Pair& pair : risen_) {
      Statistics& statistics = pairs_.at(pair);
      statistics.risen = false;
      if (statistics.count > 0) heap_.push({statistics.count, pair});
    }
    risen_.clear();
  }

  /// The most frequent pair. Counts only fall while a pair waits in the heap (rising ones are pushed again), so a
  /// stale entry goes back with its count of now. False when there is none.
  bool pop(Candidate& best) {
    while (!heap_.empty()) {
      best = heap_.top();
      heap_.pop();
      const auto found = pairs_.find(best.pair);
      const int64_t count = found == pairs_.end() ? 0 : found->second.count;
      if (count == best.count) return true;
      if (count > 0 && count < best.count) heap_.push({count, best.pair});
    }
    return false;
  }

  /// Replaces the pair everywhere, and forgets it.
  void merge(const Pair& pair, int32_t result) {
    const std::vector<uint32_t> words = std::move(pairs_.at(pair).words);
    for (const uint32_t word : words) merge_in(word, pair, result);
    pairs_.erase(pair);
  }

 private:
  struct Word {
    std::vector<int32_t> ids;
    int64_t count;
  };
  struct Statistics {
    int64_t count = 0;
    std::vector<uint32_t> words;  ///< where it was seen: some may have lost it, some be listed twice
    bool risen = false;
  };

  void change(const Pair& pair, int64_t by, uint32_t word) {
    Statistics& statistics = pairs_[pair];
    statistics.count += by;
    if (by < 0) return;
    if (statistics.words.empty() || statistics.words.back() != word) statistics.words.push_back(word);
    if (!statistics.risen) {
      statistics.risen = true;
      risen_.push_back(pair);
    }
  }

  void merge_in(uint32_t index, const Pair& pair, int32_t result) {
    Word& word = words_[index];
    std::vector<int32_t>& ids = word.ids;
    size_t kept = 0;  // ids[0, kept) are done
    for (size_t i = 0; i < ids.size();) {
      if (i + 1 == ids.size() || ids[i] != pair.first || ids[i + 1] != pair.second) {
        ids[kept++] = ids[i++];
        continue;
      }
      // The pair itself is forgotten afterwards: its own count need not be kept.
      if (kept > 0) {
        const Pair before = {ids[kept - 1], pair.first};
        if (before != pair) change(before, -word.count, index);
        change({ids[kept - 1], result}, word.count, index);
      }
      if (i + 2 < ids.size()) {
        const Pair after = {pair.second, ids[i + 2]};
        if (after != pair) change(after, -word.count, index);
        change({result, ids[i + 2]}, word.count, index);
      }
      ids[kept++] = result;
      i += 2;
    }
    ids.resize(kept);
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, Statistics, PairHash> pairs_;
  std::vector<Pair> risen_;
  std::priority_queue<Candidate> heap_;
};

}  // namespace

struct BpeTrainer::Words {
  explicit Words(const std::vector<std::string>& special_tokens) : matcher(matcher_of(special_tokens)) {}

  AddedTokenMatcher matcher;
  PreTokenizer pre_tokenizer{std::string(kQwenPattern)};
  std::unordered_map<std::string, int64_t, TextHash, std::equal_to<>> counts;
};

BpeTrainer::BpeTrainer(Options options) : options_(std::move(options)) {
  std::set<std::string_view> seen;
  for (const std::string& token : options_.special_tokens) {
    if (token.empty() || token.size() > AddedToken::kMaxBytes || !simdjson::validate_utf8(token)) {
      throw Error(fmt::format("special token {}: expected 1 to {} bytes of UTF-8, found {}", qnext::quoted(token),
                              AddedToken::kMaxBytes, token.size()));
    }
    if (token.size() == 1)
      throw Error(fmt::format("special token {}: is a byte, which is a token", qnext::quoted(token)));
    if (!seen.insert(token).second) throw Error(fmt::format("special token {} is named twice", qnext::quoted(token)));
  }
  const size_t least = 256 + options_.special_tokens.size();
  if (options_.vocab_size < 0 || static_cast<size_t>(options_.vocab_size) < least ||
      options_.vocab_size > Vocabulary::kMaxIds) {
    throw Error(fmt::format("vocabulary size: expected {} (256 bytes and {} special tokens) to {}, found {}", least,
                            options_.special_tokens.size(), Vocabulary::kMaxIds, options_.vocab_size));
  }
  words_ = std::make_unique<Words>(options_.special_tokens);
}

BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view text) {
  std::string replaced, storage;
  if (!simdjson::validate_utf8(text)) {
    append_utf8_replacing(text, replaced);
    text = replaced;
  }
  words_->matcher.split(
      text,
      [&](std::string_view part) {
        words_->pre_tokenizer.for_each_piece(normalize_nfc(part, storage), [&](std::string_view piece) {
          if (const auto found = words_->counts.find(piece); found != words_->counts.end()) {
            ++found->second;
          } else {
            words_->counts.emplace(piece, 1);
          }
        });
      },
      [](int32_t) {});
}

uint64_t BpeTrainer::different_words() const { return words_->counts.size(); }

BpeTrainer::Result BpeTrainer::train(const std::function<void(int64_t, int64_t)>& progress) const {
  Result result;
  result.special_tokens = options_.special_tokens;
  int32_t id_of_byte[256];
  std::unordered_map<std::string, int32_t> ids;
  for (const unsigned char byte : bytes_in_order()) {
    id_of_byte[byte] = static_cast<int32_t>(result.tokens.size());
    result.tokens.emplace_back(1, static_cast<char>(byte));
  }

  MergeTable table;
  for (const auto& [text, count] : words_->counts) {
    std::vector<int32_t> word;
    for (const char byte : text) word.push_back(id_of_byte[static_cast<unsigned char>(byte)]);
    table.add_word(std::move(word), count);
  }
  table.publish();

  const size_t wanted = static_cast<size_t>(options_.vocab_size) - options_.special_tokens.size();
  std::unordered_set<Pair, PairHash> merged;
  MergeTable::Candidate best;
  while (result.tokens.size() < wanted && table.pop(best)) {
    if (best.count < static_cast<int64_t>(std::max<uint64_t>(options_.min_frequency, 1))) break;
    const auto& [left, right] = best.pair;
    std::string bytes = result.tokens[static_cast<size_t>(left)] + result.tokens[static_cast<size_t>(right)];
    // Two ways of merging may yield the same bytes; the second way then leads to the same token.
    const auto [found, fresh] = ids.emplace(bytes, static_cast<int32_t>(result.tokens.size()));
    if (fresh) result.tokens.push_back(std::move(bytes));
    // Such a token can bring back a pair that has its rank already.
    if (merged.insert(best.pair).second) result.merges.push_back(best.pair);
    table.merge(best.pair, found->second);
    table.publish();
    if (progress && result.merges.size() % 256 == 0) {
      progress(static_cast<int64_t>(result.merges.size()), static_cast<int64_t>(wanted - 256));
    }
  }
  return result;
}

}  // namespace qnext
