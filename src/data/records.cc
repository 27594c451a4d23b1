#include "data/records.h"

#include <simdjson.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace qnext {

namespace {

bool has_json_name(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".jsonl" || extension == ".ndjson" || extension == ".json";
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == line.npos; }

}  // namespace

RecordReader::RecordReader(std::vector<std::filesystem::path> inputs, InputFormat format, std::string separator)
    : inputs_(std::move(inputs)), format_(format), separator_(std::move(separator)) {
  if (inputs_.empty()) throw Error("no inputs");
  bool sizes_known = true;
  for (const std::filesystem::path& path : inputs_) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) throw Error(fmt::format("{}: no such file", path.string()));
    if (std::filesystem::is_directory(status)) {
      throw Error(fmt::format("{}: is a directory: name the files in it", path.string()));
    }
    const bool regular = std::filesystem::is_regular_file(status);
    sizes_known = sizes_known && regular;
    if (regular) total_bytes_ += std::filesystem::file_size(path);
  }
  if (!sizes_known) total_bytes_ = 0;
}

bool RecordReader::next(Record& record) {
  for (; file_ < inputs_.size(); ++file_) {
    const std::filesystem::path& path = inputs_[file_];
    if (!open_) {
      stream_ = std::ifstream(path, std::ios::binary);
      if (!stream_) throw Error(fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno)));
      open_ = true;
      number_ = 0;
      json_ = format_ == InputFormat::kJsonLines || format_ == InputFormat::kChat ||
              (format_ == InputFormat::kAuto && has_json_name(path));
    }
    const bool found = next_in_file(record);
    if (stream_.bad()) throw Error(fmt::format("{}: cannot read: {}", path.string(), std::strerror(errno)));
    if (found) {
      record.file = file_;
      record.number = number_;
      record.ordinal = ordinal_++;
      record.json = json_;
      return true;
    }
    open_ = false;
  }
  return false;
}

/// A line without its end, appended; false at the end of the file.
bool RecordReader::next_line(std::string& line) {
  const size_t before = line.size();
  if (before == 0) {
    if (!std::getline(stream_, line)) return false;
  } else {
    std::string more;
    if (!std::getline(stream_, more)) return false;
    line += more;
  }
  bytes_read_ += line.size() - before + 1;
  if (line.size() > kMaxRecordBytes) {
    throw Error(fmt::format("{}: a record of more than {} bytes after record {}", inputs_[file_].string(),
                            kMaxRecordBytes, number_));
  }
  return true;
}

bool RecordReader::next_in_file(Record& record) {
  record.bytes.clear();
  if (json_) {
    while (next_line(record.bytes)) {
      ++number_;
      if (!is_blank(record.bytes)) return true;
      record.bytes.clear();
    }
    return false;
  }
  if (separator_.empty()) {
    if (number_ != 0) return false;
    number_ = 1;
    // In pieces, so that the size is known before all is in memory.
    char piece[1 << 16];
    do {
      stream_.read(piece, sizeof piece);
      record.bytes.append(piece, static_cast<size_t>(stream_.gcount()));
      if (record.bytes.size() > kMaxRecordBytes) {
        throw Error(fmt::format("{}: more than {} bytes are one document; name a line between documents",
                                inputs_[file_].string(), kMaxRecordBytes));
      }
    } while (stream_);
    bytes_read_ += record.bytes.size();
    return true;
  }
  // Documents of nothing but line ends are skipped: what stands before a separator at the top, or after the last.
  for (;;) {
    bool any = false, separated = false;
    std::string line;
    while (next_line(line)) {
      any = true;
      std::string_view text = line;
      if (text.ends_with('\r')) text.remove_suffix(1);
      if (text == separator_) {
        separated = true;
        break;
      }
      record.bytes += line;
      record.bytes += '\n';
      if (record.bytes.size() > kMaxRecordBytes) {
        throw Error(fmt::format("{}: a document of more than {} bytes after document {}", inputs_[file_].string(),
                                kMaxRecordBytes, number_));
      }
      line.clear();
    }
    if (!any) return false;
    if (record.bytes.find_first_not_of("\r\n") != std::string::npos) {
      ++number_;
      return true;
    }
    record.bytes.clear();
    if (!separated) return false;
  }
}

std::string RecordReader::place(const Record& record) const {
  return fmt::format("{}: {} {}", inputs_[record.file].string(), record.json ? "line" : "document", record.number);
}

void for_each_text(const Record& record, const std::function<void(std::string_view)>& use) {
  if (!record.json) return use(record.bytes);
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.parse(record.bytes).get(root)) {
    throw Error(fmt::format("expected JSON, found {}", simdjson::error_message(error)));
  }
  std::string_view text;
  if (root["text"].get(text) == simdjson::SUCCESS) return use(text);
  simdjson::dom::array messages;
  if (root["messages"].get(messages) != simdjson::SUCCESS) {
    throw Error("expected an object with \"text\", a string, or \"messages\", a list");
  }
  for (const simdjson::dom::element message : messages) {
    for (const char* key : {"content", "reasoning_content"}) {
      if (message[key].get(text) == simdjson::SUCCESS) use(text);
    }
  }
}

}  // namespace qnext
