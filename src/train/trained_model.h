#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "backend/training_backend.h"
#include "model/parameter_array.h"
#include "model/parameter_list.h"
#include "model/weights.h"
#include "tokenizer/tokenizer.h"
#include "train/config.h"

namespace qnext {

/// What a run trains, and the model that it is part of: all parameters of a model, or LoRA on a frozen one. Trainer,
/// optimiser and checkpoints see two lists of parameters, and the weights that the lists are seen through.
class TrainedModel {
 public:
  virtual ~TrainedModel() = default;

  virtual const Weights& weights() const = 0;           ///< of the whole model
  virtual const Weights& gradient_weights() const = 0;  ///< of its gradients (model/gradients.h)
  virtual ParameterList& parameters() = 0;              ///< what is trained
  virtual ParameterList& gradients() = 0;               ///< the same list

  /// The values that a run begins with.
  virtual void initialize() = 0;
  /// Writes the files that others open into a checkpoint's directory. fetch(name, values) is asked for the routed experts that
  /// another rank has, a parameter at a time.
  using Fetch = std::function<void(const std::string& name, std::span<float> values)>;
  virtual void write(const std::filesystem::path& directory, const Fetch& fetch) const = 0;
  /// Reads them. Throws Error when they are of another shape.
  virtual void read(const std::filesystem::path& directory) = 0;
};

/// As config.lora says. Parameters are zero until initialize() or read(). The config must outlive it. LoRA opens
/// config.model.from and leaves its weights where they are: in the mapped files, in the types they have there.
/// `experts`: of the routed ones those that this rank has; all with LoRA.
std::unique_ptr<TrainedModel> make_trained_model(const TrainConfig& config, TrainingBackend& backend, ExpertRange experts = {});

/// Of a directory with tokenizer.json, or of a .gguf file.
Tokenizer load_tokenizer(const std::filesystem::path& path);

}  // namespace qnext
