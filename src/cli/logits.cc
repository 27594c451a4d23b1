// qnext logits: a model's raw output for given tokens, as a safetensors file.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cctype>
#include <charconv>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "formats/safetensors.h"
#include "runtime/model_files.h"

namespace qnext::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFooter = R"(
The file holds `logits` [T, vocab_size] in f32: row t predicts token t + 1. With --mtp also `mtp_logits` [T - 1, vocab_size]
of the multi-token prediction module: row p has seen the model's state at p and token p + 1, and predicts token p + 2.
--chunk decides how many tokens the model reads at a time; 1 is pure decoding. The result does not depend on it beyond
rounding (docs/numerics.md).

Examples:
  qnext logits --text "Hello, world" --output hello.safetensors
  qnext logits --model M --tokens-file ids.txt --chunk 1 --mtp --output out.safetensors)";

struct LogitsOptions {
  ModelOptions model;
  std::string tokens_file, text, output;
  bool has_text = false, mtp = false, json = false;
  int64_t chunk = 0;
};

/// Token ids separated by white space. Throws FileError that says which one is not a number.
std::vector<int32_t> read_token_ids(const std::string& path) {
  const std::string text = read_input(path);
  const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size();) {
    if (is_space(text[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < text.size() && !is_space(text[end])) ++end;
    int32_t id = -1;
    const auto [stop, error] = std::from_chars(text.data() + i, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end || id < 0) {
      throw FileError(path, fmt::format("token {}", ids.size()), "a token id",
                      quoted(std::string_view(text).substr(i, end - i)));
    }
    ids.push_back(id);
    i = end;
  }
  return ids;
}

/// Room for a result: anonymous memory, or where that would be much, a nameless temporary file beside the output. The
/// space is claimed when it is made, so that a full disk is an error here and not a crash later.
class Scratch {
 public:
  Scratch(int64_t bytes, const fs::path& beside, bool in_file) : bytes_(bytes) {
    if (bytes_ == 0) return;
    int file = -1;
    if (in_file) {
      std::string name = (beside / ".qnext-logits-XXXXXX").string();
      file = mkstemp(name.data());
      if (file < 0)
        throw Error(fmt::format("{}: no temporary file can be made: {}", beside.string(), std::strerror(errno)));
      unlink(name.c_str());
      if (const int error = posix_fallocate(file, 0, bytes_)) {
        close(file);
        throw Error(fmt::format("{}: no room for {} of logits: {}", beside.string(), format_bytes(bytes_),
                                std::strerror(error)));
      }
    }
    void* data =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, in_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file, 0);
    if (file >= 0) close(file);
    if (data == MAP_FAILED)
      throw Error(fmt::format("no room for {} of logits: {}", format_bytes(bytes_), std::strerror(errno)));
    data_ = static_cast<float*>(data);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (data_) munmap(data_, bytes_);
  }

  /// Whether so many bytes are better kept in a file.
  static bool in_file(int64_t bytes) { return bytes > available_memory_bytes() / 4; }

  float* data() { return data_; }
  std::span<const std::byte> bytes() const {
    return {reinterpret_cast<const std::byte*>(data_), static_cast<size_t>(bytes_)};
  }

 private:
  int64_t bytes_;
  float* data_ = nullptr;
};

void require_disk(const fs::path& directory, int64_t bytes) {
  struct statvfs disk = {};
  if (statvfs(directory.c_str(), &disk) != 0) {
    throw Error(fmt::format("{}: {}", directory.string(), std::strerror(errno)));
  }
  const auto free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  if (static_cast<double>(bytes) > free) {
    throw Error(fmt::format("{}: the logits take {}, but only {} are free; give fewer tokens", directory.string(),
                            format_bytes(bytes), format_bytes(static_cast<int64_t>(free))));
  }
}

int logits(const LogitsOptions& options) {
  const fs::path path = find_model(options.model.model);
  const std::vector<int32_t> tokens =
      options.has_text ? ModelFiles(path).tokenizer().encode(options.text) : read_token_ids(options.tokens_file);
  const auto count = static_cast<int64_t>(tokens.size());
  if (count == 0) throw Error("there are no tokens to read");

  const ModelConfig config = ModelFiles(path).config();
  const int64_t context = options.model.context > 0 ? options.model.context : config.max_position_embeddings;
  if (count > context) throw Error(fmt::format("the prompt has {} tokens, but the context holds {}", count, context));
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] >= config.vocab_size) {
      throw Error(fmt::format("token {} is {}, but the model's vocabulary has the ids 0 to {}", i, tokens[i],
                              config.vocab_size - 1));
    }
  }
  const int64_t mtp_count = options.mtp ? count - 1 : 0;
  const int64_t row_bytes = config.vocab_size * static_cast<int64_t>(sizeof(float));
  const fs::path output(options.output);
  const fs::path directory = output.has_parent_path() ? output.parent_path() : ".";
  const int64_t bytes = (count + mtp_count) * row_bytes;
  const bool in_file = Scratch::in_file(bytes);  // then the disk holds them twice for a while
  require_disk(directory, in_file ? 2 * bytes : bytes);

  // A step's logits stand in the arena, so its size follows the chunk.
  constexpr int64_t kDefaultChunk = 512;
  const int64_t chunk = std::min(count, options.chunk > 0 ? options.chunk : kDefaultChunk);
  const std::unique_ptr<Engine> engine =
      open_engine(path, options.model, {.tokens = count, .batch_rows = chunk, .mtp = options.mtp});
  if (options.mtp && !engine->weights().mtp)
    throw Error(fmt::format("{}: the model has no MTP module", path.string()));

  const auto start = std::chrono::steady_clock::now();
  Scratch main(count * row_bytes, directory, in_file), mtp(mtp_count * row_bytes, directory, in_file);
  const std::unique_ptr<Sequence> sequence = engine->create_sequence();
  Progress progress("logits", "tokens");
  for (int64_t done = 0; done < count; done += chunk) {
    const int64_t rows = std::min(chunk, count - done);
    const Feed feed{sequence.get(), std::span(tokens).subspan(done, rows), LogitRows::kAll};
    const std::span<const float> out = engine->step({&feed, 1});
    std::memcpy(main.data() + done * config.vocab_size, out.data(), out.size_bytes());
    if (const int64_t slots = std::min(rows, mtp_count - done); slots > 0) {
      const std::span<const float> mtp_out =
          engine->mtp_step(*sequence, std::span(tokens).subspan(done + 1, slots), engine->last_hidden().first(slots));
      std::memcpy(mtp.data() + done * config.vocab_size, mtp_out.data(), mtp_out.size_bytes());
    }
    progress.update(done + rows, count);
  }
  progress.finish();
  std::vector<TensorToWrite> tensors{{"logits", "F32", {count, config.vocab_size}, main.bytes()}};
  if (options.mtp) tensors.push_back({"mtp_logits", "F32", {mtp_count, config.vocab_size}, mtp.bytes()});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_safetensors(output, tensors, {{"model", path.string()}, {"chunk", std::to_string(chunk)}});

  if (options.json) {
    const nlohmann::ordered_json report{{"output", options.output},
                                        {"tokens", count},
                                        {"vocab_size", config.vocab_size},
                                        {"mtp_rows", mtp_count},
                                        {"chunk", chunk},
                                        {"seconds", seconds},
                                        {"memory", memory_json(engine->plan())}};
    fmt::print("{}\n", report.dump());
  } else {
    fmt::print(stderr, "[{} tokens, {}; {} written to {}; memory: {} at most]\n", format_count(count),
               format_rate(count, seconds), format_bytes(bytes), options.output, format_bytes(peak_resident_bytes()));
  }
  return 0;
}

}  // namespace

void add_logits_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("logits", "write a model's logits for given tokens to a safetensors file");
  const auto options = std::make_shared<LogitsOptions>();
  add_model_option(*command, options->model);
  add_lora_option(*command, options->model);
  CLI::Option_group* input = command->add_option_group("Input (one of)");
  input->add_option("--tokens-file", options->tokens_file, "token ids separated by white space; - is standard input")
      ->type_name("FILE");
  const CLI::Option* text = input->add_option("--text", options->text, "text, encoded with the model's tokenizer");
  input->require_option(1);
  command->add_option("-o,--output", options->output, "safetensors file to write")->required()->type_name("FILE");
  command->add_option("--chunk", options->chunk, "tokens per step; default: 512")
      ->check(quiet(CLI::PositiveNumber))
      ->type_name("N");
  command->add_flag("--mtp", options->mtp, "also write the MTP module's logits");
  command
      ->add_option("--context", options->model.context,
                   "refuse more tokens than this; default: what the model allows")
      ->check(quiet(CLI::PositiveNumber))
      ->type_name("N");
  command->add_flag("--json", options->json, "print what was done as one JSON object");
  add_engine_options(*command, options->model);
  command->footer(kFooter);
  command->callback([options, text, &action] {
    options->has_text = text->count() > 0;
    action = [options] { return logits(*options); };
  });
}

}  // namespace qnext::cli
