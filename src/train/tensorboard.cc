#include "train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace qnext {

namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = value;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

template <typename T>
std::string little_endian(T value) {
  static_assert(std::endian::native == std::endian::little);
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

/// A protobuf message in the making. Field numbers are those of tensorflow/core/util/event.proto and
/// tensorboard/compat/proto/summary.proto.
class Message {
 public:
  Message& varint(int field, uint64_t value) {
    key(field, 0);
    raw_varint(value);
    return *this;
  }
  Message& number(int field, double value) { return fixed(field, 1, value); }
  Message& number(int field, float value) { return fixed(field, 5, value); }
  Message& bytes(int field, std::string_view value) {
    key(field, 2);
    raw_varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return bytes(field, value.bytes_); }
  Message& packed(int field, std::span<const double> values) {
    std::string all;
    for (const double value : values) all += little_endian(value);
    return bytes(field, all);
  }
  const std::string& str() const { return bytes_; }

 private:
  void key(int field, int wire_type) {
    raw_varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type));
  }
  void raw_varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  template <typename T>
  Message& fixed(int field, int wire_type, T value) {
    key(field, wire_type);
    bytes_ += little_endian(value);
    return *this;
  }
  std::string bytes_;
};

class Summary {
 public:
  void scalar(const std::string& tag, double value) {
    summary_.message(1, Message().bytes(1, tag).number(2, static_cast<float>(value)));
  }
  /// Shown by TensorBoard's text page, which reads Markdown: as a code block, so that the text is text.
  void text(const std::string& tag, std::string_view text) {
    std::string markdown = "    ";
    for (const char c : text) {
      markdown += c;
      if (c == '\n') markdown += "    ";
    }
    const Message metadata = Message().message(1, Message().bytes(1, "text")).varint(4, 2);  // DATA_CLASS_TENSOR
    const Message shape = Message().message(2, Message().varint(1, 1));
    const Message tensor = Message().varint(1, 7).message(2, shape).bytes(8, markdown);  // DT_STRING
    summary_.message(1, Message().bytes(1, tag).message(8, tensor).message(9, metadata));
  }
  void histogram(const std::string& tag, std::vector<double> values) {
    constexpr int kBuckets = 30;
    if (values.empty()) return;
    const auto [low, high] = std::ranges::minmax(values);
    const double width = high > low ? (high - low) / kBuckets : 1.0;
    std::vector<double> limits(kBuckets), counts(kBuckets);
    for (int i = 0; i < kBuckets; ++i) limits[i] = low + width * (i + 1);
    limits.back() = std::max(limits.back(), high);
    double sum = 0, squares = 0;
    for (const double value : values) {
      ++counts[std::min(kBuckets - 1, static_cast<int>((value - low) / width))];
      sum += value;
      squares += value * value;
    }
    const Message histogram = Message()
                                  .number(1, low)
                                  .number(2, high)
                                  .number(3, static_cast<double>(values.size()))
                                  .number(4, sum)
                                  .number(5, squares)
                                  .packed(6, limits)
                                  .packed(7, counts);
    summary_.message(1, Message().bytes(1, tag).message(5, histogram));
  }
  std::string event() const { return Message().message(5, summary_).str(); }

 private:
  Message summary_;
};

/// Bytes made valid UTF-8, which protobuf's strings and TensorBoard ask for: every other byte becomes U+FFFD.
std::string valid_utf8(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
    const unsigned b = byte(i);
    const size_t n = b < 0x80                ? 1
                     : b >= 0xC2 && b < 0xE0 ? 2
                     : b >= 0xE0 && b < 0xF0 ? 3
                     : b >= 0xF0 && b < 0xF5 ? 4
                                             : 0;
    bool good = n > 0 && i + n <= text.size();
    for (size_t k = 1; good && k < n; ++k) good = (byte(i + k) & 0xC0) == 0x80;
    if (good && ((b == 0xE0 && byte(i + 1) < 0xA0) || (b == 0xED && byte(i + 1) >= 0xA0) ||
                 (b == 0xF0 && byte(i + 1) < 0x90) || (b == 0xF4 && byte(i + 1) >= 0x90))) {
      good = false;
    }
    out += good ? text.substr(i, n) : std::string_view("\xEF\xBF\xBD");
    i += good ? n : 1;
  }
  return out;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

std::string tfrecord(std::string_view bytes) {
  const std::string length = little_endian(static_cast<uint64_t>(bytes.size()));
  std::string record = length + little_endian(masked_crc32c(length));
  record += bytes;
  return record + little_endian(masked_crc32c(bytes));
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory, int64_t first_step) {
  std::filesystem::create_directories(directory);
  if (first_step == 0) {  // a run from the beginning: older curves are another run's
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) std::filesystem::remove(entry.path());
    }
  }
  // TensorBoard reads the files of a run in the order of their names, which therefore begin with the time.
  const auto milliseconds = static_cast<int64_t>(now() * 1000);
  path_ = directory /
          fmt::format("events.out.tfevents.{}.{:03}.{}.qnext", milliseconds / 1000, milliseconds % 1000, getpid());
  file_.reset(std::fopen(path_.c_str(), "wbe"));
  if (!file_) throw Error(fmt::format("{}: cannot write: {}", path_.string(), std::strerror(errno)));
  append(0, Message().bytes(3, "brain.Event:2").str());
  if (first_step > 0) append(first_step + 1, Message().message(7, Message().varint(1, 1)).str());  // SessionLog.START
}

void TensorBoardWriter::append(int64_t step, std::string_view event_fields) {
  Message event;
  event.number(1, now()).varint(2, static_cast<uint64_t>(step));
  const std::string record = tfrecord(event.str() + std::string(event_fields));
  if (std::fwrite(record.data(), 1, record.size(), file_.get()) != record.size() || std::fflush(file_.get()) != 0) {
    throw Error(fmt::format("{}: cannot write: {}", path_.string(), std::strerror(errno)));
  }
}

void TensorBoardWriter::begin(const RunReport& report) {
  peak_flops_ = report.peak_flops;
  Summary summary;
  summary.text("config", valid_utf8(report.config_text));
  append(report.first_step, summary.event());
}

void TensorBoardWriter::step(const StepReport& r) {
  Summary summary;
  summary.scalar("loss/train", r.loss);
  summary.scalar("loss/total", r.total_loss);
  summary.scalar("loss/balance", r.balance_loss);
  summary.scalar("loss/router_z", r.z_loss);
  for (size_t d = 0; d < r.mtp_loss.size(); ++d) summary.scalar(fmt::format("mtp/loss_{}", d + 1), r.mtp_loss[d]);
  for (size_t d = 0; d < r.mtp_acceptance.size(); ++d) {
    summary.scalar(fmt::format("mtp/acceptance_{}", d + 1), r.mtp_acceptance[d]);
  }
  summary.scalar("gradient_norm/all", r.gradient_norm);
  for (const GroupNorm& group : r.group_norms) summary.scalar("gradient_norm/" + group.name, group.gradient_norm);
  summary.scalar("schedule/learning_rate", r.learning_rate);
  if (r.muon_learning_rate > 0) summary.scalar("schedule/muon_learning_rate", r.muon_learning_rate);
  summary.scalar("schedule/tokens_seen", static_cast<double>(r.tokens_seen));
  summary.scalar("schedule/sequence_length", static_cast<double>(r.sequence_length));
  summary.scalar("speed/tokens_per_second", r.tokens_per_second());
  summary.scalar("speed/flops_per_second", r.flops_per_second());
  if (peak_flops_ > 0) summary.scalar("speed/fraction_of_peak", r.flops_per_second() / peak_flops_);
  for (const LayerLoad& load : r.loads) {
    summary.scalar("router_balance/" + load.name, load.balance);
    int64_t total = 0;
    for (const int64_t tokens : load.tokens) total += tokens;
    if (total == 0) continue;
    std::vector<double> relative;  // 1 is an equal share
    for (const int64_t tokens : load.tokens) {
      relative.push_back(static_cast<double>(tokens) * static_cast<double>(load.tokens.size()) /
                         static_cast<double>(total));
    }
    summary.scalar("router_max_load/" + load.name, std::ranges::max(relative));
    if (r.step % 10 == 0 || r.step == 1) summary.histogram("router_load/" + load.name, std::move(relative));
  }
  append(r.step, summary.event());
}

void TensorBoardWriter::evaluation(const EvaluationReport& r) {
  Summary summary;
  summary.scalar("loss/validation", r.loss);
  for (size_t d = 0; d < r.mtp_loss.size(); ++d) {
    summary.scalar(fmt::format("mtp/validation_loss_{}", d + 1), r.mtp_loss[d]);
  }
  for (size_t d = 0; d < r.mtp_acceptance.size(); ++d) {
    summary.scalar(fmt::format("mtp/validation_acceptance_{}", d + 1), r.mtp_acceptance[d]);
  }
  append(r.step, summary.event());
}

void TensorBoardWriter::samples(int64_t step, std::span<const SampleText> samples) {
  Summary summary;
  for (size_t i = 0; i < samples.size(); ++i) {
    summary.text(fmt::format("samples/{}", i + 1),
                 valid_utf8(samples[i].prompt) + "\n>>>\n" + valid_utf8(samples[i].text));
  }
  append(step, summary.event());
}

}  // namespace qnext
