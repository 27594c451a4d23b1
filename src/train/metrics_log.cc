#include "train/metrics_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/cpu.h"
#include "base/error.h"
#include "formats/json.h"

namespace qnext {

namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxCount = std::numeric_limits<int64_t>::max();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kMaxLine = 64 << 20;  // a step of 48 layers of 512 experts has 0.2 MB

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

int64_t peak_memory() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

[[noreturn]] void cannot(const char* what, const std::filesystem::path& path) {
  throw Error(fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(errno)));
}

// JSON has no NaN: nlohmann writes null, which reads as absent.
double number(const JsonFields& fields, const char* key) {
  constexpr double kMax = std::numeric_limits<double>::max();
  return fields.number(key, -kMax, kMax).value_or(kNaN);
}

int64_t integer(const JsonFields& fields, const char* key) { return fields.integer(key, 0, kMaxCount).value_or(0); }

std::vector<double> numbers(const JsonFields& fields, const char* key) {
  std::vector<double> values;
  const Json* list = fields.find(key);
  if (list == nullptr) return values;
  if (!list->is_array()) fields.fail(key, "a list of numbers");
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& item = (*list)[i];
    if (!item.is_number() && !item.is_null()) fields.fail_item(key, i, "a number");
    values.push_back(item.is_null() ? kNaN : item.get<double>());
  }
  return values;
}

/// The objects of a list, each given to `read`.
template <typename Read>
void each_object(const JsonFields& fields, const char* key, const std::string& place, const Read& read) {
  const Json* list = fields.find(key);
  if (list == nullptr) return;
  if (!list->is_array()) fields.fail(key, "a list of objects");
  for (size_t i = 0; i < list->size(); ++i) {
    if (!(*list)[i].is_object()) fields.fail_item(key, i, "an object");
    read(JsonFields((*list)[i], place, fmt::format("{}[{}].", key, i)));
  }
}

Json run_line(const RunReport& r, const Hardware& h) {
  return {{"kind", "run"},
          {"step", r.first_step},
          {"config", r.config_text},
          {"parameters", r.parameters},
          {"active_parameters", r.active_parameters},
          {"steps", r.steps},
          {"batch_tokens", r.batch_tokens},
          {"peak_flops", r.peak_flops},
          {"products", r.products},
          {"threads", r.threads},
          {"ranks", r.ranks},
          {"cpu", h.cpu},
          {"cpus", h.cpus},
          {"memory_bytes", h.memory_bytes}};
}

RunRecord read_run(const JsonFields& f) {
  RunRecord record{.time = number(f, "time")};
  RunReport& r = record.report;
  r.first_step = integer(f, "step");
  r.config_text = f.text("config").value_or("");
  r.parameters = integer(f, "parameters");
  r.active_parameters = integer(f, "active_parameters");
  r.steps = integer(f, "steps");
  r.batch_tokens = integer(f, "batch_tokens");
  r.peak_flops = number(f, "peak_flops");
  r.products = f.text("products").value_or("");
  constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
  r.threads = static_cast<int>(f.integer("threads", 0, kMaxInt).value_or(0));
  r.ranks = static_cast<int>(f.integer("ranks", 0, kMaxInt).value_or(1));
  record.hardware = {
      .cpu = f.text("cpu").value_or(""), .cpus = integer(f, "cpus"), .memory_bytes = integer(f, "memory_bytes")};
  return record;
}

Json step_line(const StepReport& r, bool with_loads) {
  Json line{{"kind", "step"},
            {"step", r.step},
            {"tokens", r.tokens},
            {"tokens_seen", r.tokens_seen},
            {"targets", r.targets},
            {"documents_seen", r.documents_seen},
            {"epoch", r.epoch},
            {"sequence_length", r.sequence_length},
            {"loss", r.loss},
            {"mtp_loss", r.mtp_loss},
            {"mtp_acceptance", r.mtp_acceptance},
            {"balance_loss", r.balance_loss},
            {"z_loss", r.z_loss},
            {"total_loss", r.total_loss},
            {"gradient_norm", r.gradient_norm},
            {"clipped", r.clipped},
            {"learning_rate", r.learning_rate},
            {"muon_learning_rate", r.muon_learning_rate},
            {"seconds", r.seconds},
            {"forward_seconds", r.forward_seconds},
            {"backward_seconds", r.backward_seconds},
            {"optimizer_seconds", r.optimizer_seconds},
            {"data_seconds", r.data_seconds},
            {"flops", r.flops},
            {"peak_memory_bytes", peak_memory()}};
  Json& norms = line["group_norms"] = Json::array();
  for (const GroupNorm& group : r.group_norms) norms.push_back({{"name", group.name}, {"norm", group.gradient_norm}});
  if (with_loads) {
    Json& loads = line["loads"] = Json::array();
    for (const LayerLoad& load : r.loads) {
      loads.push_back({{"name", load.name}, {"tokens", load.tokens}, {"rows", load.rows}, {"balance", load.balance}});
    }
  }
  return line;
}

StepRecord read_step(const JsonFields& f, const std::string& place) {
  StepRecord record{.time = number(f, "time"), .peak_memory_bytes = integer(f, "peak_memory_bytes")};
  StepReport& r = record.report;
  r.step = f.required_integer("step", 1, kMaxCount);
  r.tokens = integer(f, "tokens");
  r.tokens_seen = integer(f, "tokens_seen");
  r.targets = integer(f, "targets");
  r.documents_seen = integer(f, "documents_seen");
  r.epoch = integer(f, "epoch");
  r.sequence_length = integer(f, "sequence_length");
  r.loss = number(f, "loss");
  r.mtp_loss = numbers(f, "mtp_loss");
  r.mtp_acceptance = numbers(f, "mtp_acceptance");
  r.balance_loss = number(f, "balance_loss");
  r.z_loss = number(f, "z_loss");
  r.total_loss = number(f, "total_loss");
  r.gradient_norm = number(f, "gradient_norm");
  r.clipped = f.boolean("clipped").value_or(false);
  r.learning_rate = number(f, "learning_rate");
  r.muon_learning_rate = number(f, "muon_learning_rate");
  r.seconds = number(f, "seconds");
  r.forward_seconds = number(f, "forward_seconds");
  r.backward_seconds = number(f, "backward_seconds");
  r.optimizer_seconds = number(f, "optimizer_seconds");
  r.data_seconds = number(f, "data_seconds");
  r.flops = number(f, "flops");
  each_object(f, "group_norms", place, [&](const JsonFields& group) {
    r.group_norms.push_back({group.text("name").value_or(""), number(group, "norm")});
  });
  each_object(f, "loads", place, [&](const JsonFields& load) {
    LayerLoad layer{
        .name = load.text("name").value_or(""), .rows = integer(load, "rows"), .balance = number(load, "balance")};
    const Json* tokens = load.find("tokens");
    if (tokens == nullptr || !tokens->is_array()) load.fail("tokens", "a list of counts");
    for (size_t i = 0; i < tokens->size(); ++i) {
      if (!(*tokens)[i].is_number_integer() || (*tokens)[i] < 0) load.fail_item("tokens", i, "a count");
      layer.tokens.push_back((*tokens)[i].get<int64_t>());
    }
    r.loads.push_back(std::move(layer));
  });
  return record;
}

Json evaluation_line(const EvaluationReport& r) {
  return {
      {"kind", "evaluation"}, {"step", r.step}, {"tokens_seen", r.tokens_seen}, {"tokens", r.tokens},
      {"targets", r.targets}, {"loss", r.loss}, {"mtp_loss", r.mtp_loss},       {"mtp_acceptance", r.mtp_acceptance},
      {"seconds", r.seconds}, {"best", r.best}};
}

EvaluationRecord read_evaluation(const JsonFields& f) {
  EvaluationRecord record{.time = number(f, "time")};
  EvaluationReport& r = record.report;
  r.step = f.required_integer("step", 0, kMaxCount);
  r.tokens_seen = integer(f, "tokens_seen");
  r.tokens = integer(f, "tokens");
  r.targets = integer(f, "targets");
  r.loss = number(f, "loss");
  r.mtp_loss = numbers(f, "mtp_loss");
  r.mtp_acceptance = numbers(f, "mtp_acceptance");
  r.seconds = number(f, "seconds");
  r.best = f.boolean("best").value_or(false);
  return record;
}

/// The bytes of a line that are worth keeping when a run goes on after first_step.
bool belongs_before(std::string_view line, int64_t first_step, const std::string& place) {
  try {
    const Json json = parse_json_object(line, place);
    const JsonFields fields(json, place);
    return fields.required_integer("step", 0, kMaxCount) <= first_step;
  } catch (const FileError&) {
    return false;  // cut short by a crash
  }
}

void write_synced(const std::filesystem::path& path, std::string_view text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) cannot("write", path);
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int error = errno;
      ::close(file);
      errno = error;
      cannot("write", path);
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  const bool synced = ::fsync(file) == 0;
  if (::close(file) != 0 || !synced) cannot("write", path);
}

template <typename Records, typename StepOf>
void drop_from(Records& records, int64_t step, const StepOf& step_of) {
  while (!records.empty() && step_of(records.back()) >= step) records.pop_back();
}

}  // namespace

Hardware this_machine() {
  Hardware hardware{.cpus = static_cast<int64_t>(allowed_cpus().size())};
  hardware.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != line.npos) hardware.cpu = line.substr(colon + 2);
    break;
  }
  return hardware;
}

MetricsLog::MetricsLog(std::filesystem::path path, int64_t first_step) : path_(std::move(path)), step_(first_step) {
  if (path_.has_parent_path()) std::filesystem::create_directories(path_.parent_path());
  std::string kept;
  if (std::ifstream old(path_, std::ios::binary); old && first_step > 0) {
    int64_t number = 0;
    for (std::string line; std::getline(old, line);) {
      const std::string place = fmt::format("{}:{}", path_.string(), ++number);
      if (!old.eof() && belongs_before(line, first_step, place)) kept += line + '\n';
    }
  }
  std::filesystem::path temporary = path_;
  temporary += ".tmp";
  write_synced(temporary, kept);
  std::filesystem::rename(temporary, path_);
  file_.reset(std::fopen(path_.c_str(), "ae"));
  if (!file_) cannot("write", path_);
}

void MetricsLog::append(const Json& line) {
  Json timed = line;
  timed["time"] = std::round(now() * 1000) / 1000;
  const std::string text = timed.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0) {
    cannot("write", path_);
  }
}

void MetricsLog::begin(const RunReport& report) {
  last_step_ = report.steps;
  append(run_line(report, this_machine()));
}

void MetricsLog::step(const StepReport& report) {
  step_ = report.step;
  append(step_line(report, step_ % kLoadsEvery == 0 || step_ == 1 || step_ == last_step_));
}

void MetricsLog::evaluation(const EvaluationReport& report) { append(evaluation_line(report)); }

void MetricsLog::samples(int64_t step, std::span<const SampleText> samples) {
  Json line{{"kind", "samples"}, {"step", step}, {"samples", Json::array()}};
  for (const SampleText& sample : samples)
    line["samples"].push_back({{"prompt", sample.prompt}, {"text", sample.text}});
  append(line);
}

void MetricsLog::checkpoint(int64_t step, const std::filesystem::path& path) {
  append({{"kind", "checkpoint"}, {"step", step}, {"path", path.string()}});
}

void MetricsLog::end(bool finished) { append({{"kind", "end"}, {"step", step_}, {"finished", finished}}); }

void Metrics::add(std::string_view line, const std::string& place) {
  const Json json = parse_json_object(line, place);
  const JsonFields fields(json, place);
  const std::string kind = fields.text("kind").value_or("");
  if (kind == "run") {
    RunRecord run = read_run(fields);
    const int64_t beyond = run.report.first_step + 1;
    drop_from(runs, beyond, [](const RunRecord& r) { return r.report.first_step; });
    drop_from(steps, beyond, [](const StepRecord& r) { return r.report.step; });
    drop_from(evaluations, beyond, [](const EvaluationRecord& r) { return r.report.step; });
    drop_from(samples, beyond, [](const SamplesRecord& r) { return r.step; });
    drop_from(checkpoints, beyond, [](const CheckpointRecord& r) { return r.step; });
    end.reset();
    runs.push_back(std::move(run));
  } else if (kind == "step") {
    StepRecord step = read_step(fields, place);
    drop_from(steps, step.report.step, [](const StepRecord& r) { return r.report.step; });
    steps.push_back(std::move(step));
  } else if (kind == "evaluation") {
    EvaluationRecord evaluation = read_evaluation(fields);
    drop_from(evaluations, evaluation.report.step, [](const EvaluationRecord& r) { return r.report.step; });
    evaluations.push_back(std::move(evaluation));
  } else if (kind == "samples") {
    SamplesRecord record{.step = fields.required_integer("step", 0, kMaxCount), .samples = {}};
    each_object(fields, "samples", place, [&](const JsonFields& sample) {
      record.samples.push_back({sample.text("prompt").value_or(""), sample.text("text").value_or("")});
    });
    drop_from(samples, record.step, [](const SamplesRecord& r) { return r.step; });
    samples.push_back(std::move(record));
  } else if (kind == "checkpoint") {
    checkpoints.push_back({fields.required_integer("step", 0, kMaxCount), fields.text("path").value_or("")});
  } else if (kind == "end") {
    end = EndRecord{fields.required_integer("step", 0, kMaxCount), fields.boolean("finished").value_or(false),
                    number(fields, "time")};
  }
}

bool MetricsReader::update() {
  std::ifstream file(path_, std::ios::binary);
  struct stat status = {};
  if (!file || ::stat(path_.c_str(), &status) != 0) cannot("read", path_);
  const auto size = static_cast<uint64_t>(status.st_size);
  bool changed = false;
  if (status.st_ino != inode_ || size < offset_) {
    metrics_ = {};
    inode_ = status.st_ino;
    offset_ = line_ = 0;
    changed = true;
  }
  file.seekg(static_cast<std::streamoff>(offset_));
  for (std::string line; std::getline(file, line) && !file.eof();) {
    const std::string place = fmt::format("{}:{}", path_.string(), line_ + 1);
    if (line.size() > kMaxLine)
      throw FileError(place, "line", "at most 64 MiB", fmt::format("{} bytes", line.size()));
    metrics_.add(line, place);
    offset_ += line.size() + 1;
    ++line_;
    changed = true;
  }
  return changed;
}

}  // namespace qnext
