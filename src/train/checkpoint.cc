#include "train/checkpoint.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/safetensors.h"
#include "model/stored_tensors.h"
#include "tensor/dtype.h"

namespace qnext {

namespace {

namespace fs = std::filesystem;

constexpr const char* kStateJson = "training_state.json";
constexpr const char* kStateTensors = "training_state.safetensors";
constexpr size_t kMaxJsonBytes = size_t{64} << 20;
/// Beside the weights, from the tokenizer's directory.
constexpr const char* kCopied[] = {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
                                   "merges.txt", "special_tokens_map.json", "chat_template.jinja"};

void sync_directory(const fs::path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

/// Out of the way under another name first, so that no kill leaves half of it under its own.
void remove_directory(const fs::path& directory) {
  fs::path doomed = directory;
  doomed += ".tmp-old";
  std::error_code ignored;
  fs::remove_all(doomed, ignored);
  fs::rename(directory, doomed, ignored);
  fs::remove_all(doomed, ignored);
}

std::string checksum_of(const fs::path& path) {
  const MappedFile file(path);
  return checksum_text({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
}

TrainingState read_state(const fs::path& directory) {
  const fs::path path = directory / kStateJson;
  return parse_training_state(read_text_file(path, kMaxJsonBytes), path.string());
}

}  // namespace

void verify_checkpoint(const fs::path& directory) {
  for (const auto& [name, sum] : read_state(directory).files) {
    const fs::path path = directory / name;
    if (const std::string found = checksum_of(path); found != sum) throw FileError(path.string(), "checksum", sum, found);
  }
}

CheckpointStore::CheckpointStore(const TrainConfig& config, Communicator& communicator,
                                 std::function<void(const std::string&)> warn)
    : config_(config), communicator_(communicator), warn_(std::move(warn)) {
  if (communicator.rank() != 0) return;
  const fs::path& output = config.run.output;
  std::error_code error;
  fs::create_directories(output, error);
  if (error) throw Error(fmt::format("{}: cannot create: {}", output.string(), error.message()));
  lock_ = ::open((output / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) throw Error(fmt::format("{}: cannot create: {}", (output / "lock").string(), std::strerror(errno)));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock_);
    throw Error(fmt::format("{}: another process is training into this directory", output.string()));
  }
  for (const auto& entry : fs::directory_iterator(output)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.find(".tmp-") != name.npos) fs::remove_all(entry.path(), error);
  }
}

CheckpointStore::~CheckpointStore() {
  if (lock_ >= 0) ::close(lock_);
}

std::vector<std::pair<int64_t, fs::path>> CheckpointStore::list() const {
  std::vector<std::pair<int64_t, fs::path>> found;
  for (const auto& entry : fs::directory_iterator(config_.run.output)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step-") || name.size() > 20) continue;
    const std::string digits = name.substr(5);
    if (digits.empty() || digits.find_first_not_of("0123456789") != digits.npos) continue;
    found.emplace_back(std::stoll(digits), entry.path());
  }
  std::ranges::sort(found);
  return found;
}

// ---- writing

/// The other side of TrainedModel::write(): routed experts that this rank alone has, in the order of the file.
void CheckpointStore::send_model(const Arrays& arrays) const {
  const ParameterShares& shares = arrays.optimizer->shares();
  if (shares.experts_per_rank() == 0) return;
  for (const StoredTensor& t : hugging_face_tensors(config_.shape, stored_parts(arrays.model->weights()))) {
    const std::string& name = t.rows.front().parameter;
    if (shares.expert_owner(expert_of(name)) != communicator_.rank()) continue;
    const ParameterInfo* p = arrays.model->parameters().find(name);
    QNEXT_CHECK(p != nullptr && t.rows.size() == 1 && p->size() == t.row_count() * t.cols(), "{}", t.name);
    communicator_.transfer(arrays.model->parameters().of(*p), communicator_.rank(), 0);
  }
}

struct CheckpointStore::StateTensor {
  TensorSpec spec;
  int owner = 0;
  int64_t part_size = 0;                ///< its values come in equal parts
  std::vector<std::span<float>> parts;  ///< at its owner
};

std::vector<CheckpointStore::StateTensor> CheckpointStore::state_tensors(const Arrays& arrays) const {
  std::vector<StateTensor> tensors;
  const ParameterShares& shares = arrays.optimizer->shares();
  const ParameterList& parameters = arrays.model->parameters();
  std::unordered_map<std::string_view, size_t> here;  // this rank's parameters
  for (const ParameterInfo& p : parameters.parameters()) here.emplace(p.name, here.size());
  const bool all_here = shares.experts_per_rank() == 0;
  for (const ParameterInfo& p : all_here ? parameters.parameters() : parameter_list(config_.shape, arrays.model->weights().mtp.has_value())) {
    const std::vector<int64_t> shape = p.is_matrix ? std::vector{p.rows, p.cols} : std::vector{p.cols};
    const auto add = [&](const char* kind, int owner, std::span<float> values) {
      tensors.push_back({{fmt::format("{}.{}", kind, p.name), DType::kF32, shape}, owner, p.size(), {values}});
    };
    const auto it = here.find(p.name);
    const auto of = [&](auto&& f) { return it == here.end() ? std::span<float>() : f(it->second); };
    const int only = shares.expert_owner(p.expert), owner = only >= 0 ? only : shares.owner(it->second);
    if (config_.checkpoint.bf16) {
      add("master", std::max(only, 0), of([&](size_t i) { return parameters.of(parameters.parameters()[i]); }));
    }
    add("m", owner, of([&](size_t i) { return arrays.optimizer->first_moment(i); }));
    if (arrays.optimizer->has_second_moment(p)) add("v", owner, of([&](size_t i) { return arrays.optimizer->second_moment(i); }));
  }
  for (Lanes::StateTensor& t : arrays.lanes->states()) {
    const int64_t part_size = t.shape.back();
    tensors.push_back({{std::move(t.name), DType::kF32, std::move(t.shape)}, t.owner, part_size, std::move(t.parts)});
  }
  return tensors;
}

/// A part at a time, those of other ranks as they come.
void CheckpointStore::write_state(const fs::path& directory, const Arrays& arrays) const {
  const std::vector<StateTensor> tensors = state_tensors(arrays);
  std::vector<TensorSpec> specs;
  for (const StateTensor& t : tensors) specs.push_back(t.spec);
  const auto writer = create_safetensors(directory / kStateTensors, specs);
  std::vector<float> received;
  for (const StateTensor& t : tensors) {
    if (t.owner == 0) {
      for (const auto& part : t.parts) writer->append(std::as_bytes(part));
      continue;
    }
    int64_t count = 1;
    for (const int64_t extent : t.spec.shape) count *= extent;
    received.resize(static_cast<size_t>(t.part_size));
    for (int64_t done = 0; done < count; done += t.part_size) {
      communicator_.transfer(received, t.owner, 0);
      writer->append(std::as_bytes(std::span(received)));
    }
  }
  writer->finish();
}

/// The other side of write_state().
void CheckpointStore::send_state(const Arrays& arrays) const {
  for (const StateTensor& t : state_tensors(arrays)) {
    if (t.owner != communicator_.rank()) continue;
    for (const auto& part : t.parts) communicator_.transfer(part, t.owner, 0);
  }
}

void CheckpointStore::save(const TrainingState& state, const Arrays& arrays) {
  const fs::path path = config_.run.output / fmt::format("step-{:08}", state.step);
  if (communicator_.rank() != 0) {
    send_model(arrays);
    send_state(arrays);
    communicator_.barrier();
    last_good_ = path;
    return;
  }
  fs::path temporary = path;
  temporary += fmt::format(".tmp-{}", ::getpid());
  std::error_code error;
  fs::remove_all(temporary, error);
  fs::create_directory(temporary, error);
  if (error) throw Error(fmt::format("{}: cannot create: {}", temporary.string(), error.message()));
  try {
    write(temporary, path, state, arrays);
  } catch (const std::exception& failure) {
    fs::remove_all(temporary, error);
    throw Error(fmt::format("the checkpoint of step {} could not be written: {}", state.step, failure.what()));
  }
  communicator_.barrier();
  last_good_ = path;
  remove_old(state);
}

/// All files under `temporary`, then renamed.
void CheckpointStore::write(const fs::path& temporary, const fs::path& path, TrainingState state, const Arrays& arrays) {
  const ParameterShares& shares = arrays.optimizer->shares();
  arrays.model->write(temporary, [&](const std::string& name, std::span<float> values) {
    communicator_.transfer(values, shares.expert_owner(expert_of(name)), 0);
  });
  write_state(temporary, arrays);
  for (const char* name : kCopied) {
    const fs::path from = config_.model.tokenizer / name;
    if (fs::exists(from)) write_text_file(temporary / name, read_text_file(from, size_t{1} << 30));
  }
  state.files.clear();  // of the checkpoint that the run went on from
  for (const auto& entry : fs::directory_iterator(temporary)) {
    state.files[entry.path().filename().string()] = checksum_of(entry.path());
  }
  write_text_file(temporary / kStateJson, training_state_json(state));
  sync_directory(temporary);
  if (fs::exists(path)) remove_directory(path);  // a damaged one, or of a run that was set back
  fs::rename(temporary, path);
  sync_directory(config_.run.output);
}

void CheckpointStore::remove_old(const TrainingState& state) {
  const auto all = list();
  const auto keep = static_cast<size_t>(config_.checkpoint.keep_last);
  for (size_t i = 0; i + keep < all.size(); ++i) {
    if (config_.checkpoint.keep_best && all[i].first == state.best_step) continue;
    if (all[i].second != last_good_) remove_directory(all[i].second);
  }
}

// ---- reading

std::optional<fs::path> CheckpointStore::newest() {
  // Rank 0 looks and tells the others the step.
  std::optional<std::pair<int64_t, fs::path>> found;
  if (communicator_.rank() == 0) {
    auto all = list();
    std::ranges::reverse(all);
    for (const auto& candidate : all) {
      try {
        verify_checkpoint(candidate.second);
        found = candidate;
        break;
      } catch (const Error& error) {
        warn_(fmt::format("{}: not used, it is torn or altered: {}", candidate.second.string(), error.what()));
      }
    }
  }
  int64_t step = found ? found->first : 0;
  communicator_.sum(std::span(&step, 1));
  if (step == 0) return std::nullopt;
  if (found) return found->second;
  for (const auto& candidate : list()) {
    if (candidate.first == step) return candidate.second;
  }
  throw Error(fmt::format("{}: rank 0 has a checkpoint of step {} there, which rank {} does not see: all need the same directory",
                          config_.run.output.string(), step, communicator_.rank()));
}

TrainingState CheckpointStore::load(const fs::path& directory, const Arrays& arrays, uint64_t data_fingerprint) {
  TrainingState state = read_state(directory);
  const auto other_shape = [&](const std::string& why) {
    return Error(fmt::format("{}: the checkpoint is of another shape than the configuration: {}", directory.string(), why));
  };
  const MappedFile mapped(directory / kStateTensors);
  const std::string tensors_file = mapped.path().string();
  std::map<std::string, FileTensor> tensors;
  for (FileTensor& t : parse_safetensors(mapped.bytes(), tensors_file)) tensors.emplace(t.name, std::move(t));
  const auto copy = [&](const std::string& name, std::span<float> out, bool required) {
    const auto it = tensors.find(name);
    if (it == tensors.end()) {
      if (required) throw other_shape(fmt::format("it has no {}", name));
      std::ranges::fill(out, 0.0f);
      return;
    }
    if (it->second.dtype != DType::kF32 || it->second.bytes.size() != out.size_bytes()) {
      throw other_shape(fmt::format("{} has {} bytes instead of {}", name, it->second.bytes.size(), out.size_bytes()));
    }
    std::memcpy(out.data(), it->second.bytes.data(), out.size_bytes());
  };
  const auto& list = arrays.model->parameters().parameters();
  const bool masters = tensors.contains("master." + list.front().name);
  for (size_t i = 0; i < list.size(); ++i) {
    const ParameterInfo& p = list[i];
    if (masters) copy("master." + p.name, arrays.model->parameters().of(p), true);
    if (arrays.optimizer->shares().owner(i) != communicator_.rank()) continue;
    copy("m." + p.name, arrays.optimizer->first_moment(i), true);
    copy("v." + p.name, arrays.optimizer->second_moment(i), false);
  }
  if (!masters) {
    try {
      arrays.model->read(directory);
    } catch (const Error& error) {
      throw other_shape(error.what());
    }
  }
  last_good_ = directory;
  if (data_fingerprint != state.data_fingerprint) {
    if (!config_.data.allow_change) {
      throw Error(fmt::format("{}: the checkpoint's run had other training data (fingerprint {:016x}) than data.train now is ({:016x}); "
                              "data.allow_change = true begins an epoch of the new data",
                              directory.string(), state.data_fingerprint, data_fingerprint));
    }
    warn_("the training data has changed: an epoch of the new data begins");
    state.data_fingerprint = data_fingerprint;
    state.position = {state.position.epoch + 1, 0, state.position.documents, {}, {}};
    arrays.lanes->restore(state.position);
    return state;
  }
  arrays.lanes->restore(state.position);
  for (const Lanes::StateTensor& t : arrays.lanes->states()) {
    if (t.owner != communicator_.rank()) continue;
    const auto it = tensors.find(t.name);
    size_t bytes = 0;
    for (const auto& part : t.parts) bytes += part.size_bytes();
    if (it == tensors.end() || it->second.bytes.size() != bytes) {
      throw FileError(tensors_file, t.name, fmt::format("{} bytes", bytes),
                      it == tensors.end() ? "no such tensor" : fmt::format("{} bytes", it->second.bytes.size()));
    }
    const std::byte* from = it->second.bytes.data();
    for (const auto& part : t.parts) {
      std::memcpy(part.data(), from, part.size_bytes());
      from += part.size_bytes();
    }
  }
  return state;
}

}  // namespace qnext
