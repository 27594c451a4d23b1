#include "data/pack.h"

#include <simdjson.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/philox.h"
#include "chat/chat_format.h"
#include "data/conversation.h"
#include "data/dataset.h"
#include "data/shuffle.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kBatchBytes = 1 << 20;
constexpr size_t kBatchRecords = 1024;
constexpr size_t kMaxBuckets = 256;

/// Where the shuffle puts a record.
uint64_t shuffle_key(uint64_t seed, uint64_t ordinal) {
  const auto bits = philox4x32({static_cast<uint32_t>(ordinal), static_cast<uint32_t>(ordinal >> 32), 0, 0},
                               {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return bits[0] | uint64_t{bits[1]} << 32;
}

/// Records to words. One per thread: it keeps the parser's memory.
class RecordEncoder {
 public:
  RecordEncoder(const Tokenizer& tokenizer, const ChatFormat& chat, const PackOptions& options, int32_t end_id)
      : tokenizer_(tokenizer), chat_(chat), options_(options), end_id_(end_id) {}

  /// Throws Error when the record is bad.
  void encode(const Record& record, std::vector<uint32_t>& words) {
    words.clear();
    if (!record.json) {
      if (!simdjson::validate_utf8(record.bytes)) throw Error("expected UTF-8, found other bytes");
      return append_text(record.bytes, words);
    }
    simdjson::dom::element root;
    if (const auto error = parser_.parse(record.bytes).get(root)) {
      throw Error(fmt::format("expected a JSON object, found: {}", simdjson::error_message(error)));
    }
    if (!root.is_object()) throw Error("expected a JSON object, found another value");
    simdjson::dom::element value;
    const bool has_messages = root["messages"].get(value) == simdjson::SUCCESS;
    const bool is_chat =
        options_.format == InputFormat::kChat || (options_.format == InputFormat::kAuto && has_messages);
    if (is_chat) {
      // simdjson has accepted it, so nesting is at most 1,024 deep.
      return append_conversation(parse_ordered(record.bytes), tokenizer_, chat_, words);
    }
    std::string_view text;
    if (root["text"].get(value) != simdjson::SUCCESS) {
      throw Error(options_.format == InputFormat::kAuto ? "expected \"text\" or \"messages\", found neither"
                                                        : "text: expected a string, found nothing");
    }
    if (value.get(text) != simdjson::SUCCESS) throw Error("text: expected a string, found another value");
    append_text(text, words);
  }

 private:
  static Json parse_ordered(const std::string& text) {
    try {
      return Json::parse(text);
    } catch (const Json::exception& error) {
      throw Error(fmt::format("expected a JSON object, found: {}", qnext::quoted(error.what(), 200)));
    }
  }

  void append_text(std::string_view text, std::vector<uint32_t>& words) {
    ids_.clear();
    tokenizer_.encode(text, ids_, options_.special_in_text ? SpecialTokens::kParse : SpecialTokens::kPlain);
    if (ids_.empty()) throw Error("expected a text, found an empty one");
    for (const int32_t id : ids_) words.push_back(token_word(id, true));
    words.push_back(token_word(end_id_, true));
  }

  const Tokenizer& tokenizer_;
  const ChatFormat& chat_;
  const PackOptions& options_;
  int32_t end_id_;
  simdjson::dom::parser parser_;
  std::vector<int32_t> ids_;
};

/// Reads, encodes and spills, with several threads: each takes the next records in turn.
class Ingest {
 public:
  Ingest(const PackOptions& options, RecordReader& reader, DocumentShuffle& shuffle,
         const std::function<void(const PackProgress&)>& progress)
      : options_(options), reader_(reader), shuffle_(shuffle), progress_(progress) {}

  void run(const Tokenizer& tokenizer, const ChatFormat& chat, int32_t end_id) {
    const auto work = [&] {
      try {
        RecordEncoder encoder(tokenizer, chat, options_, end_id);
        std::vector<Record> batch;
        std::vector<uint32_t> words;
        while (take(batch)) {
          for (const Record& record : batch) {
            try {
              encoder.encode(record, words);
            } catch (const Error& error) {
              note_bad(record, error.what());
              continue;
            }
            shuffle_.add(shuffle_key(options_.seed, record.ordinal), record.ordinal, words);
            ++documents_;
            tokens_ += words.size();
          }
          report_progress();
        }
      } catch (...) {
        const std::scoped_lock lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
        stop_ = true;
      }
    };
    {
      std::vector<std::jthread> others;
      for (int i = 1; i < options_.threads; ++i) others.emplace_back(work);
      work();
    }
    if (failure_) std::rethrow_exception(failure_);
    std::ranges::sort(bad_);
    if (!bad_.empty() && !options_.skip_bad) throw Error(bad_.front().second);
  }

  uint64_t documents() const { return documents_; }
  uint64_t skipped() const { return skipped_; }
  std::vector<std::string> bad_messages() const {
    std::vector<std::string> messages;
    for (const auto& [ordinal, message] : bad_) messages.push_back(message);
    return messages;
  }

 private:
  bool take(std::vector<Record>& batch) {
    const std::scoped_lock lock(mutex_);
    size_t count = 0;
    for (size_t bytes = 0; !stop_ && bytes < kBatchBytes && count < kBatchRecords; ++count) {
      if (batch.size() == count) batch.emplace_back();
      if (!reader_.next(batch[count])) break;
      bytes += batch[count].bytes.size();
    }
    batch.resize(count);
    return count > 0;
  }

  /// Earlier records than this one have been taken, and will be finished: the first of them that is bad is reported,
  /// whichever thread comes first.
  void note_bad(const Record& record, const char* what) {
    const std::scoped_lock lock(mutex_);
    ++skipped_;
    bad_.emplace_back(record.ordinal, fmt::format("{}: {}", reader_.place(record), what));
    if (bad_.size() > 4 * PackReport::kKeptMessages) keep_first();
    if (!options_.skip_bad) stop_ = true;
  }
  void keep_first() {
    std::ranges::sort(bad_);
    bad_.resize(PackReport::kKeptMessages);
  }

  void report_progress() {
    if (!progress_) return;
    const std::scoped_lock lock(mutex_);
    progress_({reader_.bytes_read(), reader_.total_bytes(), documents_, tokens_});
  }

  const PackOptions& options_;
  RecordReader& reader_;
  DocumentShuffle& shuffle_;
  const std::function<void(const PackProgress&)>& progress_;
  std::mutex mutex_;  ///< of the reader and what follows
  bool stop_ = false;
  std::exception_ptr failure_;
  uint64_t skipped_ = 0;
  std::vector<std::pair<uint64_t, std::string>> bad_;
  std::atomic<uint64_t> documents_{0}, tokens_{0};
};

/// Shards of about shard_tokens, one after the other.
class ShardSequence {
 public:
  ShardSequence(const PackOptions& options, int32_t vocab_size, uint64_t fingerprint)
      : options_(options), vocab_size_(vocab_size), fingerprint_(fingerprint) {}

  void append(std::span<const uint32_t> document) {
    if (!writer_) {
      name_ = fmt::format("shard-{:05}.tokens", entries_.size());
      writer_.emplace(options_.out / name_, vocab_size_, fingerprint_);
    }
    writer_->append(document);
    if (writer_->counts().tokens >= options_.shard_tokens) close();
  }
  void close() {
    if (!writer_) return;
    writer_->finish();
    const TokenCounts counts = writer_->counts();
    writer_.reset();
    entries_.push_back({{"file", name_},
                        {"documents", counts.documents},
                        {"tokens", counts.tokens},
                        {"targets", counts.targets},
                        {"checksum", fmt::format("{:016x}", TokenShard(options_.out / name_).header_checksum())}});
    total_.documents += counts.documents;
    total_.tokens += counts.tokens;
    total_.targets += counts.targets;
  }

  const TokenCounts& total() const { return total_; }
  const Json& entries() const { return entries_; }

 private:
  const PackOptions& options_;
  int32_t vocab_size_;
  uint64_t fingerprint_;
  std::string name_;
  std::optional<TokenShardWriter> writer_;
  TokenCounts total_;
  Json entries_ = Json::array();
};

int32_t end_token_id(const PackOptions& options, const Tokenizer& tokenizer, const ChatFormat& chat) {
  if (!options.end_token.empty()) {
    const auto id = tokenizer.token_id(options.end_token);
    if (!id) throw Error(fmt::format("the tokenizer has no token {}", qnext::quoted(options.end_token)));
    return *id;
  }
  for (const std::string& text : {std::string("<|endoftext|>"), chat.eos_token()}) {
    if (const auto id = tokenizer.token_id(text); id && !text.empty()) return *id;
  }
  throw Error(fmt::format("{}: neither <|endoftext|> nor an eos_token: name the token that ends a text",
                          options.tokenizer.string()));
}

/// The directory, made or emptied of an earlier data set.
void prepare(const PackOptions& options) {
  std::filesystem::create_directories(options.out);
  const auto manifest = options.out / TokenDataset::kManifest;
  if (!std::filesystem::exists(manifest)) return;
  if (!options.overwrite) throw Error(fmt::format("{}: holds a data set already", options.out.string()));
  std::filesystem::remove(manifest);  // first: shards without it are nothing
  for (const auto& entry : std::filesystem::directory_iterator(options.out)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("shard-") && name.ends_with(".tokens")) std::filesystem::remove(entry.path());
  }
}

size_t bucket_count(const PackOptions& options, uint64_t input_bytes) {
  if (input_bytes == 0) return 64;  // from a pipe: anything
  // A token of 4 bytes stands for 1.5 to 5 bytes of text.
  return static_cast<size_t>(
      std::clamp<uint64_t>(2 * input_bytes / std::max<uint64_t>(options.bucket_bytes, 1), 1, kMaxBuckets));
}

void write_manifest(const PackOptions& options, const PackReport& report, uint64_t fingerprint, const Json& shards) {
  Json sources = Json::array();
  for (const auto& input : options.inputs) sources.push_back(input.filename().string());
  const Json manifest = {{"version", 1},
                         {"documents", report.counts.documents},
                         {"tokens", report.counts.tokens},
                         {"targets", report.counts.targets},
                         {"vocab_size", report.vocab_size},
                         {"tokenizer_fingerprint", fmt::format("{:016x}", fingerprint)},
                         {"seed", options.seed},
                         {"skipped_records", report.skipped},
                         {"sources", sources},
                         {"shards", shards}};
  const std::string text = manifest.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  AtomicFile file(options.out / TokenDataset::kManifest);
  file.write(std::as_bytes(std::span(text)).data(), text.size(), 0);
  file.commit();
}

}  // namespace

PackReport pack_documents(const PackOptions& options, const std::function<void(const PackProgress&)>& progress) {
  QNEXT_CHECK(options.threads >= 1 && options.shard_tokens >= 1);
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  const ChatFormat chat = ChatFormat::load(options.tokenizer);
  const int32_t end_id = end_token_id(options, tokenizer, chat);
  RecordReader reader(options.inputs, options.format, options.separator);
  prepare(options);

  PackReport report;
  report.vocab_size = tokenizer.vocab_size();
  DocumentShuffle shuffle(options.out, bucket_count(options, reader.total_bytes()));
  Ingest ingest(options, reader, shuffle, progress);
  ingest.run(tokenizer, chat, end_id);
  report.bytes_read = reader.bytes_read();
  report.skipped = ingest.skipped();
  report.bad_records = ingest.bad_messages();
  if (report.bad_records.size() > PackReport::kKeptMessages) report.bad_records.resize(PackReport::kKeptMessages);
  if (ingest.documents() == 0) {
    throw Error(report.skipped == 0 ? std::string("the inputs hold no documents")
                                    : fmt::format("all {} records are bad, the first: {}", report.skipped,
                                                  report.bad_records.front()));
  }

  const uint64_t fingerprint = tokenizer_fingerprint(tokenizer);
  ShardSequence shards(options, tokenizer.vocab_size(), fingerprint);
  shuffle.for_each([&](std::span<const uint32_t> document) { shards.append(document); });
  shards.close();
  report.counts = shards.total();
  report.shards = shards.entries().size();
  write_manifest(options, report, fingerprint, shards.entries());
  return report;
}

}  // namespace qnext
