#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

/// How inputs are read. kAuto: files named .jsonl, .ndjson or .json are JSON lines, each a text or a conversation by
/// its own keys; others are text.
enum class InputFormat { kAuto, kText, kJsonLines, kChat };

/// One document of the inputs, not parsed yet.
struct Record {
  size_t file = 0;       ///< index of the input
  uint64_t number = 0;   ///< in its file, from 1: the line, for JSON lines
  uint64_t ordinal = 0;  ///< among all records of all files, from 0
  bool json = false;
  std::string bytes;
};

/// Reads inputs record by record; memory is that of one record. Blank lines between JSON lines are no records.
class RecordReader {
 public:
  static constexpr size_t kMaxRecordBytes = size_t{1} << 30;  ///< what the tokenizer takes

  /// separator: in text files, the line between two documents; empty: each file is one document. Throws Error when an
  /// input does not exist or is a directory.
  RecordReader(std::vector<std::filesystem::path> inputs, InputFormat format, std::string separator = "");

  /// The next record; false at the end. Throws Error naming the file when it cannot be read or a record is too long.
  bool next(Record& record);
  /// "FILE: line 3" or "FILE: document 3", for messages.
  std::string place(const Record& record) const;

  const std::vector<std::filesystem::path>& inputs() const { return inputs_; }
  uint64_t total_bytes() const { return total_bytes_; }  ///< of regular files; 0 when one is something else
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  bool next_line(std::string& line);
  bool next_in_file(Record& record);

  std::vector<std::filesystem::path> inputs_;
  InputFormat format_;
  std::string separator_;
  uint64_t total_bytes_ = 0, bytes_read_ = 0, ordinal_ = 0, number_ = 0;
  size_t file_ = 0;
  std::ifstream stream_;
  bool open_ = false, json_ = false;
};

/// The texts that a tokenizer learns from: a text document's own, a conversation's contents. Throws Error for a
/// record that is not what its format says.
void for_each_text(const Record& record, const std::function<void(std::string_view)>& use);

}  // namespace qnext
