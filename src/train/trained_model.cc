#include "train/trained_model.h"

#include <algorithm>
#include <cmath>

#include "base/atomic_file.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/philox.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "model/lora.h"
#include "model/parameter_array.h"
#include "model/peft.h"
#include "model/stored_tensors.h"
#include "train/initialize.h"

namespace qnext {

namespace {

namespace fs = std::filesystem;

class WholeModel final : public TrainedModel {
 public:
  WholeModel(const TrainConfig& config, TrainingBackend& backend, ExpertRange experts)
      : config_(config),
        parameters_(config.shape, config.model.mtp_steps > 0, backend, experts),
        gradients_(config.shape, config.model.mtp_steps > 0, backend, experts) {}

  const Weights& weights() const override { return parameters_.weights(); }
  const Weights& gradient_weights() const override { return gradients_.weights(); }
  ParameterList& parameters() override { return parameters_; }
  ParameterList& gradients() override { return gradients_; }

  void initialize() override {
    qnext::initialize(parameters_, config_.shape, static_cast<uint64_t>(config_.run.seed),
                      config_.model.initializer_range, config_.model.dt_bias);
    if (config_.model.from.empty()) return;
    const ModelConfig shape = load_config(config_.model.from);
    parameters_.copy_from(bind_weights(shape, std::make_shared<const SafetensorsCheckpoint>(config_.model.from)));
  }

  /// A Hugging Face directory's model.safetensors and config.json.
  void write(const fs::path& directory, const Fetch& fetch) const override {
    const ParameterReader reader(weights());
    const std::vector<StoredTensor> tensors = hugging_face_tensors(config_.shape, stored_parts(weights()));
    std::vector<TensorSpec> specs;
    const bool bf16 = config_.checkpoint.bf16;
    const auto dtype_of = [&](const StoredTensor& t) { return bf16 && !t.keep_f32 ? DType::kBF16 : DType::kF32; };
    for (const StoredTensor& t : tensors) specs.push_back({t.name, dtype_of(t), t.shape});
    const auto writer = create_safetensors(directory / "model.safetensors", specs, {{"format", "pt"}});
    std::vector<float> values, fetched;
    std::vector<uint16_t> halves;
    for (const StoredTensor& t : tensors) {
      const int64_t cols = t.cols(), rows = t.row_count(), at_once = std::max<int64_t>(1, (int64_t{1} << 18) / cols);
      const std::string& name = t.rows.front().parameter;
      const bool elsewhere = expert_of(name) >= 0 && reader.matrix(name) == nullptr;
      if (elsewhere) {
        fetched.resize(static_cast<size_t>(rows * cols));
        fetch(name, fetched);
      }
      for (int64_t first = 0; first < rows; first += at_once) {
        const int64_t count = std::min(at_once, rows - first);
        values.resize(static_cast<size_t>(count * cols));
        if (elsewhere) {
          std::copy_n(fetched.begin() + first * cols, count * cols, values.begin());
        } else {
          reader.read(t, first, count, values);
        }
        if (dtype_of(t) == DType::kF32) {
          writer->append(std::as_bytes(std::span(values)));
          continue;
        }
        halves.resize(values.size());
        std::ranges::transform(values, halves.begin(), [](float x) { return f32_to_bf16(x); });
        writer->append(std::as_bytes(std::span(halves)));
      }
    }
    writer->finish();
    write_text_file(directory / "config.json", config_.config_json);
  }

  void read(const fs::path& directory) override {
    parameters_.copy_from(bind_weights(config_.shape, std::make_shared<const SafetensorsCheckpoint>(directory)));
  }

 private:
  const TrainConfig& config_;
  ParameterArray parameters_, gradients_;
};

std::shared_ptr<const Checkpoint> open_checkpoint(const fs::path& path) {
  if (fs::is_directory(path)) return std::make_shared<const SafetensorsCheckpoint>(path);
  return std::make_shared<const GgufCheckpoint>(path);
}

class LoraModel final : public TrainedModel {
 public:
  LoraModel(const TrainConfig& config, TrainingBackend& backend)
      : config_(config),
        backend_(backend),
        weights_(bind_weights(config.shape, open_checkpoint(config.model.from))),
        gradient_weights_(weights_of_shape(config.shape, false)),
        parameters_(specs(), backend),
        gradients_(specs(), backend) {
    parameters_.attach(weights_);
    gradients_.attach(gradient_weights_);
  }

  const Weights& weights() const override { return weights_; }
  const Weights& gradient_weights() const override { return gradient_weights_; }
  ParameterList& parameters() override { return parameters_; }
  ParameterList& gradients() override { return gradients_; }

  /// a is U(±1/sqrt(columns)), as in PEFT, b zero: the model is what it was. Each value depends on seed, name and
  /// index alone.
  void initialize() override {
    for (size_t i = 0; i < parameters_.specs().size(); ++i) {
      const std::string_view name = parameters_.parameters()[2 * i].name;
      const auto seed = static_cast<uint64_t>(config_.run.seed);
      const uint64_t stream = checksum(std::as_bytes(std::span(name))) ^ (seed * 0x9E3779B97F4A7C15u);
      const double bound = 1.0 / std::sqrt(static_cast<double>(parameters_.specs()[i].module.cols));
      const std::span<float> a = parameters_.a(i);
      for (size_t j = 0; j < a.size(); ++j)
        a[j] = static_cast<float>(bound * (2.0 * philox_uniform(stream, j) - 1.0));
      std::ranges::fill(parameters_.b(i), 0.0f);
    }
  }

  /// A directory that PEFT loads.
  void write(const fs::path& directory, const Fetch&) const override {
    PeftConfig peft{.rank = config_.lora.rank, .alpha = config_.lora.alpha, .targets = config_.lora.targets};
    peft.base_model = fs::absolute(config_.model.from).lexically_normal().string();
    write_peft(directory, peft, parameters_, config_.checkpoint.bf16 ? DType::kBF16 : DType::kF32);
  }

  void read(const fs::path& directory) override {
    const auto from = load_peft(directory, config_.shape, stored_parts(weights_), backend_);
    const auto& list = parameters_.parameters();
    const auto same = [](const ParameterInfo& x, const ParameterInfo& y) {
      return x.name == y.name && x.rows == y.rows && x.cols == y.cols;
    };
    if (!std::ranges::equal(list, from->parameters(), same)) {
      throw Error(fmt::format("{}: its modules or ranks are not those of [lora]", directory.string()));
    }
    std::ranges::copy(from->values(), parameters_.values().begin());
  }

 private:
  std::vector<LoraSpec> specs() const {
    std::vector<LoraSpec> specs;
    for (LoraModule& module : lora_modules(config_.shape, stored_parts(weights_))) {
      const auto meant = [&](const std::string& target) { return lora_target_matches(target, module.name); };
      if (std::ranges::none_of(config_.lora.targets, meant)) continue;
      specs.push_back(
          {std::move(module), config_.lora.rank, config_.lora.alpha / static_cast<double>(config_.lora.rank)});
    }
    return specs;
  }

  const TrainConfig& config_;
  TrainingBackend& backend_;
  Weights weights_, gradient_weights_;
  LoraArray parameters_, gradients_;
};

}  // namespace

std::unique_ptr<TrainedModel> make_trained_model(const TrainConfig& config, TrainingBackend& backend, ExpertRange experts) {
  if (config.lora.rank > 0) return std::make_unique<LoraModel>(config, backend);
  return std::make_unique<WholeModel>(config, backend, experts);
}

Tokenizer load_tokenizer(const fs::path& path) {
  if (path.extension() != ".gguf") return Tokenizer::load(path);
  const GgufCheckpoint file(path);
  return Tokenizer::from_gguf(file.metadata(), file.file());
}

}  // namespace qnext
