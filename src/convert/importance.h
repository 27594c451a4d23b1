#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

/// How much each input column of each matrix matters: the sum of its squared inputs over a calibration run. Files are
/// GGUF, as llama.cpp's imatrix tool writes them: for a tensor T of the model's GGUF form "T.in_sum2" [parts, cols]
/// and "T.counts" [parts, 1], where a stack of experts has a part for each and everything else one.
class Importance {
 public:
  struct Entry {
    int64_t cols = 0;
    std::vector<float> sums;    ///< [parts, cols]
    std::vector<float> counts;  ///< [parts], rows that were summed
  };

  /// Throws FileError for a file of another kind, shapes that do not match, and values that are negative or not
  /// finite.
  static Importance load(const std::filesystem::path& path);
  /// `text` names what it was measured on.
  void save(const std::filesystem::path& path, const std::string& text, int64_t chunks, int64_t chunk_tokens) const;

  /// The importance of the columns of part `part` of a tensor, up to a factor; null when it was never used or the
  /// file does not have it. Throws Error when the file has it with other sizes.
  const float* columns(std::string_view tensor, int64_t part, int64_t parts, int64_t cols) const;
  bool has(std::string_view tensor) const { return entries.contains(tensor); }

  std::map<std::string, Entry, std::less<>> entries;
  std::string file;  ///< for messages
};

}  // namespace qnext
