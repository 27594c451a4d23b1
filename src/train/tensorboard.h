#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "train/observer.h"

namespace qnext {

/// CRC-32C (Castagnoli), and as TFRecord files hold it: rotated and shifted, so that a checksum of checksums is none.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

/// One record of a TFRecord file: length, its checksum, the bytes, their checksum.
std::string tfrecord(std::string_view bytes);

/// Writes what a run does as an event file that TensorBoard shows: scalars, histograms of the experts' loads, sample
/// texts. Each sitting of a run gets a file of its own in `directory`; it begins by telling TensorBoard to forget the
/// steps after `first_step`. Flushed after every call. Not thread-safe. Throws Error when the disk is full.
class TensorBoardWriter final : public TrainingObserver {
 public:
  TensorBoardWriter(const std::filesystem::path& directory, int64_t first_step);

  void begin(const RunReport& report) override;
  void step(const StepReport& report) override;
  void evaluation(const EvaluationReport& report) override;
  void samples(int64_t step, std::span<const SampleText> samples) override;

  const std::filesystem::path& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  void append(int64_t step, std::string_view event_fields);

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  double peak_flops_ = 0.0;
};

}  // namespace qnext
