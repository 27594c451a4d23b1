#include "convert/quantize.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/thread_pool.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "model/peft.h"
#include "quant/encode.h"
#include "runtime/model_files.h"

namespace qnext {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kFp8Block = 128;

/// One tensor of the output.
struct Job {
  StoredTensor tensor;
  Role role;
  DType dtype;
  bool scaled() const { return dtype == DType::kF8E4M3; }
  int64_t parameters() const { return tensor.row_count() * tensor.cols(); }
  int64_t scale_rows() const { return (tensor.row_count() + kFp8Block - 1) / kFp8Block; }
  int64_t scale_cols() const { return (tensor.cols() + kFp8Block - 1) / kFp8Block; }
  int64_t bytes() const { return bytes_of(dtype, parameters()) + (scaled() ? scale_rows() * scale_cols() * 4 : 0); }
};

/// Reads, encodes and appends tensors, on a pool of threads.
class Encoder {
 public:
  Encoder(const Weights& weights, const QuantizeOptions& options, int threads)
      : reader_(weights), importance_(options.importance), pool_(threads), buffers_(static_cast<size_t>(threads)) {}

  /// on_progress(parameters of this tensor done).
  void write(const Job& job, TensorFileWriter& writer, const std::function<void(int64_t)>& on_progress) {
    const StoredTensor& t = job.tensor;
    const int64_t cols = t.cols(), rows = t.row_count();
    // A task is about a hundred thousand values, a batch some tens of tasks. Fp8 scales span 128 rows.
    int64_t task_rows = std::max<int64_t>(1, kTaskValues / cols);
    if (job.scaled()) task_rows = (task_rows + kFp8Block - 1) / kFp8Block * kFp8Block;
    const int64_t batch_rows = task_rows * kBatchTasks;
    const int64_t row_bytes = bytes_of(job.dtype, cols);
    out_.resize(static_cast<size_t>(std::min(batch_rows, rows) * row_bytes));
    scales_.assign(job.scaled() ? static_cast<size_t>(job.scale_rows() * job.scale_cols()) : 0, 0.0f);
    for (auto& buffer : buffers_) buffer.resize(static_cast<size_t>(std::min(task_rows, rows) * cols));
    for (int64_t first = 0; first < rows; first += batch_rows) {
      const int64_t count = std::min(batch_rows, rows - first);
      failures_.clear();
      pool_.parallel_for((count + task_rows - 1) / task_rows, [&](int64_t task, int thread) {
        const int64_t begin = first + task * task_rows, end = std::min(begin + task_rows, first + count);
        try {
          encode_rows(job, begin, end - begin, buffers_[static_cast<size_t>(thread)],
                      out_.data() + (begin - first) * row_bytes);
        } catch (...) {
          const std::lock_guard lock(mutex_);
          failures_.emplace(task, std::current_exception());
        }
      });
      if (!failures_.empty()) std::rethrow_exception(failures_.begin()->second);  // the first, whoever found it
      writer.append({out_.data(), static_cast<size_t>(count * row_bytes)});
      on_progress((first + count) * cols);
    }
    if (job.scaled()) writer.append(std::as_bytes(std::span(scales_)));
  }

 private:
  static constexpr int64_t kTaskValues = int64_t{1} << 17, kBatchTasks = 32;

  void encode_rows(const Job& job, int64_t first, int64_t count, std::span<float> buffer, std::byte* out) {
    if (copy_rows(job, first, count, out)) return;
    const StoredTensor& t = job.tensor;
    const int64_t cols = t.cols();
    const std::span<float> x = buffer.first(static_cast<size_t>(count * cols));
    reader_.read(t, first, count, x);
    if (const int64_t i = first_not_encodable(x.data(), count * cols); i >= 0) {
      throw Error(fmt::format("{}: row {}, column {}: expected a number of magnitude up to {}, found {}", t.name,
                              first + i / cols, i % cols, kMaxEncodable, x[static_cast<size_t>(i)]));
    }
    if (job.scaled()) return encode_scaled(job, first, count, x, out);
    if (importance_ == nullptr || !is_block_type(job.dtype)) {
      return encode(job.dtype, x.data(), count * cols, nullptr, out);
    }
    const int64_t parts = t.shape.size() == 3 ? t.shape[0] : 1, part_rows = t.row_count() / parts;
    for (int64_t r = 0; r < count; ++r) {
      const float* columns = importance_->columns(t.name, (first + r) / part_rows, parts, cols);
      encode(job.dtype, x.data() + r * cols, cols, columns, out + r * bytes_of(job.dtype, cols));
    }
  }

  /// Rows that are there in the wanted type are taken as they are.
  bool copy_rows(const Job& job, int64_t first, int64_t count, std::byte* out) const {
    if (!is_block_type(job.dtype) || job.tensor.transform != Transform::kNone) return false;
    const int64_t row_bytes = bytes_of(job.dtype, job.tensor.cols());
    int64_t begin = 0;
    for (const ParameterRows& piece : job.tensor.rows) {
      const int64_t from = std::max(first, begin) - begin, to = std::min(first + count, begin + piece.count) - begin;
      begin += piece.count;
      if (from >= to) continue;
      const Matrix* m = reader_.matrix(piece.parameter);
      if (m == nullptr || m->dtype != job.dtype || m->low_rank != nullptr) return false;
      for (int64_t r = from; r < to; ++r, out += row_bytes) std::memcpy(out, m->row(piece.first + r), row_bytes);
    }
    return true;
  }

  /// Each 128 x 128 block divided by its largest magnitude / 448; `first` is a multiple of 128.
  void encode_scaled(const Job& job, int64_t first, int64_t count, std::span<float> x, std::byte* out) {
    const int64_t cols = job.tensor.cols();
    for (int64_t r0 = 0; r0 < count; r0 += kFp8Block) {
      for (int64_t c0 = 0; c0 < cols; c0 += kFp8Block) {
        const int64_t r1 = std::min(r0 + kFp8Block, count), c1 = std::min(c0 + kFp8Block, cols);
        float peak = 0;
        for (int64_t r = r0; r < r1; ++r) {
          for (int64_t c = c0; c < c1; ++c) peak = std::max(peak, std::fabs(x[r * cols + c]));
        }
        const float scale = peak > 0 ? peak / 448.0f : 1.0f;
        scales_[static_cast<size_t>((first + r0) / kFp8Block * job.scale_cols() + c0 / kFp8Block)] = scale;
        for (int64_t r = r0; r < r1; ++r) {
          for (int64_t c = c0; c < c1; ++c) x[r * cols + c] /= scale;
        }
      }
    }
    encode(DType::kF8E4M3, x.data(), count * cols, nullptr, out);
  }

  ParameterReader reader_;
  const Importance* importance_;
  ThreadPool pool_;
  std::vector<std::vector<float>> buffers_;  ///< one for each thread
  std::vector<std::byte> out_;
  std::vector<float> scales_;
  std::mutex mutex_;
  std::map<int64_t, std::exception_ptr> failures_;
};

/// The output's tensors with their types, and the report about them.
std::vector<Job> plan_jobs(std::vector<StoredTensor> tensors, const QuantizeOptions& options, bool gguf,
                           QuantizeReport& report) {
  std::vector<Job> jobs;
  std::map<std::pair<Role, DType>, RoleReport> roles;
  std::map<std::pair<DType, DType>, std::pair<int64_t, int64_t>> unfit;  // wanted, taken: tensors, a row's length
  int64_t without_importance = 0, block_tensors = 0;
  for (StoredTensor& tensor : tensors) {
    const Role role = role_of(tensor);
    const DType wanted = options.recipe[role];
    const DType dtype = type_that_fits(wanted, tensor.cols());
    if (dtype != wanted) {
      auto& [count, cols] = unfit[{wanted, dtype}];
      ++count;
      cols = tensor.cols();
    }
    if (gguf ? dtype == DType::kF8E4M3 : is_block_type(dtype)) {
      throw Error(fmt::format("{}: {} tensors cannot hold {}; use {}", tensor.name, gguf ? "GGUF" : "safetensors",
                              dtype_name(dtype), gguf ? "a directory for fp8" : "a .gguf file for it"));
    }
    Job job{std::move(tensor), role, dtype};
    if (is_block_type(dtype)) {
      ++block_tensors;
      const bool known = options.importance != nullptr && options.importance->has(job.tensor.name);
      without_importance += known || role == Role::kEmbedding ? 0 : 1;
    }
    RoleReport& entry = roles[{role, dtype}];
    entry.role = role;
    entry.dtype = dtype;
    ++entry.tensors;
    entry.parameters += job.parameters();
    entry.bytes += job.bytes();
    report.parameters += job.parameters();
    report.bytes += job.bytes();
    jobs.push_back(std::move(job));
  }
  for (const auto& [key, entry] : roles) report.roles.push_back(entry);
  for (const auto& [types, where] : unfit) {
    report.notes.push_back(
        fmt::format("{} tensors with rows of {} values became {} instead of {}, whose blocks have {}", where.first,
                    where.second, dtype_name(types.second), dtype_name(types.first), block_elements(types.first)));
  }
  if (options.importance != nullptr && without_importance > 0) {
    report.notes.push_back(fmt::format("{}: no importance for {} of {} quantised tensors", options.importance->file,
                                       without_importance, block_tensors));
  }
  return jobs;
}

/// A directory that appears under its name when it is complete, and is removed before that.
class NewDirectory {
 public:
  explicit NewDirectory(fs::path path) : path_(std::move(path)) {
    if (!path_.has_filename()) path_ = path_.parent_path();
    if (fs::exists(path_)) throw Error(fmt::format("{}: already exists", path_.string()));
    temporary_ = path_;
    temporary_ += fmt::format(".tmp-{}", ::getpid());
    std::error_code error;
    fs::create_directory(temporary_, error);
    if (error) throw Error(fmt::format("{}: cannot create: {}", temporary_.string(), error.message()));
  }
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;
  ~NewDirectory() {
    std::error_code ignored;
    if (!committed_) fs::remove_all(temporary_, ignored);
  }
  const fs::path& path() const { return temporary_; }
  void commit() {
    std::error_code error;
    fs::rename(temporary_, path_, error);
    if (error) throw Error(fmt::format("{}: cannot rename: {}", temporary_.string(), error.message()));
    committed_ = true;
  }

 private:
  fs::path path_, temporary_;
  bool committed_ = false;
};

std::vector<TensorSpec> specs_of(std::span<const Job> jobs) {
  std::vector<TensorSpec> specs;
  for (const Job& job : jobs) {
    specs.push_back({job.tensor.name, job.dtype, job.tensor.shape});
    if (job.scaled()) {
      specs.push_back({job.tensor.name + "_scale_inv", DType::kF32, {job.scale_rows(), job.scale_cols()}});
    }
  }
  return specs;
}

/// Writes what belongs beside model.safetensors: config.json, tokenizer and chat template as they are, except that
/// config.json states the weights' quantisation: fp8 with scales of 128 x 128, or none.
void write_model_files(const fs::path& from, const fs::path& to, bool fp8) {
  using Json = nlohmann::ordered_json;
  constexpr size_t kMaxBytes = size_t{64} << 20;
  Json config = Json::parse(read_text_file(from / "config.json", kMaxBytes));
  config.erase("quantization_config");
  if (fp8) {
    config["quantization_config"] = {{"quant_method", "fp8"},
                                     {"fmt", "e4m3"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", {kFp8Block, kFp8Block}}};
  }
  std::ofstream file(to / "config.json", std::ios::binary);
  file << config.dump(2) << "\n";
  file.close();
  if (!file) throw Error(fmt::format("{}: cannot write", (to / "config.json").string()));
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
                           "merges.txt", "special_tokens_map.json", "chat_template.jinja"}) {
    std::error_code error;
    if (!fs::exists(from / name)) continue;
    fs::copy_file(from / name, to / name, error);
    if (error) throw Error(fmt::format("{}: cannot copy: {}", (from / name).string(), error.message()));
  }
}

}  // namespace

QuantizeReport quantize(const fs::path& in, const fs::path& out, const QuantizeOptions& options,
                        const std::function<void(int64_t, int64_t)>& on_progress) {
  const ModelFiles files(in);
  const ModelConfig config = files.config();
  Weights weights = bind_weights(config, files.checkpoint());
  const bool gguf = out.extension() == ".gguf";
  if (!gguf && files.is_gguf()) {
    throw Error(
        fmt::format("{}: a GGUF file becomes a GGUF file; for a directory start from the original", in.string()));
  }
  const StoredParts parts = stored_parts(weights);
  std::unique_ptr<LoraArray> lora;
  if (!options.lora.empty()) {
    lora = load_peft(options.lora, config, parts, *make_cpu_backend(1, Isa::kScalar));
    lora->attach(weights);
  }
  QuantizeReport report;
  const std::vector<Job> jobs =
      plan_jobs(gguf ? gguf_tensors(config, parts) : hugging_face_tensors(config, parts), options, gguf, report);
  if (options.plan_only) return report;

  Encoder encoder(weights, options, options.threads > 0 ? options.threads : static_cast<int>(allowed_cpus().size()));
  const auto write_all = [&](TensorFileWriter& writer) {
    int64_t done = 0;
    for (const Job& job : jobs) {
      encoder.write(job, writer, [&](int64_t of_tensor) {
        if (on_progress) on_progress(done + of_tensor, report.parameters);
      });
      done += job.parameters();
    }
    writer.finish();
  };
  const std::vector<TensorSpec> specs = specs_of(jobs);
  if (gguf) {
    std::error_code ignored;
    if (fs::equivalent(in, out, ignored)) throw Error(fmt::format("{}: is the model to be read", out.string()));
    GgufMetadata metadata = files.gguf_metadata(parts);
    metadata.set("general.quantization_version", uint32_t{2});
    write_all(*create_gguf(out, metadata, specs));
    report.file_bytes = static_cast<int64_t>(fs::file_size(out));
  } else {
    NewDirectory directory(out);
    const bool fp8 = std::ranges::any_of(jobs, &Job::scaled);
    write_model_files(in, directory.path(), fp8);
    const fs::path file = directory.path() / "model.safetensors";
    write_all(*create_safetensors(file, specs, {{"format", "pt"}}));
    report.file_bytes = static_cast<int64_t>(fs::file_size(file));
    directory.commit();
  }
  return report;
}

}  // namespace qnext
