#include "formats/safetensors.h"

#include <simdjson.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "base/error.h"

namespace qnext {

namespace {

static_assert(std::endian::native == std::endian::little, "tensors are mapped, and files are little-endian");

constexpr uint64_t kHeaderSizeBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the safetensors library
constexpr size_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxDepth = 16;  // the format needs 3

std::string describe(simdjson::dom::element value) {
  const std::string text = simdjson::minify(value);
  return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

/// Reads the header of one file. Where a message names the field it is the tensor, with the part that is wrong.
class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> bytes, const std::string& file) : file_(file) {
    if (bytes.size() < kHeaderSizeBytes) {
      throw FileError(file, "file size", "at least the 8 bytes of the header size",
                      fmt::format("{} bytes", bytes.size()));
    }
    uint64_t header_size = 0;
    std::memcpy(&header_size, bytes.data(), sizeof(header_size));
    if (header_size > kMaxHeaderBytes) {
      throw FileError(file, "header size", fmt::format("at most {} bytes", kMaxHeaderBytes),
                      fmt::format("{} bytes", header_size));
    }
    if (header_size > bytes.size() - kHeaderSizeBytes) {
      throw FileError(file, "header size",
                      fmt::format("at most the {} bytes that follow it (is the file cut short?)",
                                  bytes.size() - kHeaderSizeBytes),
                      fmt::format("{} bytes", header_size));
    }
    header_ = {reinterpret_cast<const char*>(bytes.data()) + kHeaderSizeBytes, static_cast<size_t>(header_size)};
    data_ = bytes.subspan(kHeaderSizeBytes + header_size);
  }

  std::vector<FileTensor> parse() {
    simdjson::dom::parser parser;
    simdjson::dom::object header;
    // The format wants '{' as the first byte; JSON alone would allow spaces before it.
    if (header_.empty() || header_[0] != '{')
      throw FileError(file_, "header", "a JSON object", qnext::quoted(header_, 20));
    simdjson::error_code error = parser.allocate(header_.size(), kMaxDepth);
    if (!error) error = parser.parse(header_.data(), header_.size()).get(header);
    if (error) throw FileError(file_, "header", "a JSON object", simdjson::error_message(error));

    std::vector<FileTensor> tensors;
    tensors.reserve(header.size());
    std::unordered_set<std::string_view> names;
    names.reserve(header.size());
    for (const auto& [name, value] : header) {
      if (!names.insert(name).second) throw FileError(file_, qnext::quoted(name), "each name once", "the name twice");
      if (name == "__metadata__") {
        check_metadata(value);
      } else {
        tensors.push_back(parse_tensor(name, value));
      }
    }
    check_layout(tensors);
    return tensors;
  }

 private:
  void check_metadata(simdjson::dom::element value) const {
    simdjson::dom::object fields;
    if (value.get(fields)) throw FileError(file_, "__metadata__", "an object of strings", describe(value));
    std::unordered_set<std::string_view> keys;
    for (const auto& [key, text] : fields) {
      if (!text.is_string()) throw FileError(file_, "__metadata__." + qnext::quoted(key), "a string", describe(text));
      if (!keys.insert(key).second) {
        throw FileError(file_, "__metadata__." + qnext::quoted(key), "each key once", "the key twice");
      }
    }
  }

  FileTensor parse_tensor(std::string_view name, simdjson::dom::element value) const {
    const auto fail = [&](std::string_view part, const std::string& expected, const std::string& found) {
      throw FileError(file_, fmt::format("tensor {}{}", qnext::quoted(name, 200), part), expected, found);
    };
    simdjson::dom::object fields;
    if (value.get(fields)) fail("", "an object with dtype, shape and data_offsets", describe(value));

    FileTensor tensor;
    tensor.name = name;
    uint64_t begin = 0, end = 0;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    for (const auto& [key, field] : fields) {
      if (key == "dtype" && !std::exchange(has_dtype, true)) {
        std::string_view text;
        if (field.get(text) || safetensors_element_bits(text) == 0)
          fail(" dtype", "a safetensors type", describe(field));
        tensor.dtype_text = text;
        tensor.dtype = dtype_from_name(text);
      } else if (key == "shape" && !std::exchange(has_shape, true)) {
        tensor.shape = parse_shape(field, fail);
      } else if (key == "data_offsets" && !std::exchange(has_offsets, true)) {
        simdjson::dom::array offsets;
        if (field.get(offsets) || offsets.size() != 2 || offsets.at(0).get(begin) || offsets.at(1).get(end)) {
          fail(" data_offsets", "[begin, end], two non-negative integers", describe(field));
        }
      } else {
        fail("", "dtype, shape and data_offsets, each once", fmt::format("a field {}", qnext::quoted(key)));
      }
    }
    if (!has_dtype || !has_shape || !has_offsets) {
      fail("", "dtype, shape and data_offsets", fmt::format("{}", describe(value)));
    }
    if (begin > end || end > data_.size()) {
      fail(" data_offsets", fmt::format("begin <= end <= {}, the bytes after the header", data_.size()),
           fmt::format("[{}, {}]", begin, end));
    }
    check_size(tensor, end - begin, fail);
    tensor.bytes = data_.subspan(begin, end - begin);
    tensor.file = &file_;
    return tensor;
  }

  template <typename Fail>
  static std::vector<int64_t> parse_shape(simdjson::dom::element field, const Fail& fail) {
    simdjson::dom::array dims;
    if (field.get(dims)) fail(" shape", "a list of sizes", describe(field));
    std::vector<int64_t> shape;
    shape.reserve(dims.size());
    for (simdjson::dom::element dim : dims) {
      int64_t size = 0;
      if (dim.get(size) || size < 0) fail(" shape", "non-negative integers", describe(field));
      shape.push_back(size);
    }
    return shape;
  }

  template <typename Fail>
  static void check_size(const FileTensor& tensor, uint64_t bytes, const Fail& fail) {
    int64_t bits = safetensors_element_bits(tensor.dtype_text);
    bool empty = false;
    for (int64_t dim : tensor.shape) {
      empty = empty || dim == 0;
      // With 1 for 0: a product that wraps must not hide behind a 0, for others multiply in another order.
      if (__builtin_mul_overflow(bits, std::max<int64_t>(dim, 1), &bits)) {
        fail(" shape", fmt::format("{} bytes of {}", bytes, tensor.dtype_text),
             fmt::format("[{}], more than 2^63 bits", fmt::join(tensor.shape, ", ")));
      }
    }
    if (empty) bits = 0;
    if (bits % 8 != 0 || static_cast<uint64_t>(bits / 8) != bytes) {
      fail("", fmt::format("{} bytes for {} [{}]", (bits + 7) / 8, tensor.dtype_text, fmt::join(tensor.shape, ", ")),
           fmt::format("data_offsets of {} bytes", bytes));
    }
  }

  /// The tensors, in the order of their data, must tile it: no overlap, no hole, nothing behind the last.
  void check_layout(const std::vector<FileTensor>& tensors) const {
    std::vector<size_t> order(tensors.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto begin = [&](size_t i) { return static_cast<size_t>(tensors[i].bytes.data() - data_.data()); };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {  // an empty tensor goes before its neighbour
      return std::pair(begin(a), tensors[a].bytes.size()) < std::pair(begin(b), tensors[b].bytes.size());
    });
    size_t cursor = 0;
    for (size_t i : order) {
      if (begin(i) != cursor) {
        throw FileError(file_, fmt::format("tensor {} data_offsets", qnext::quoted(tensors[i].name, 200)),
                        fmt::format("begin {}, the end of the tensor before it", cursor),
                        fmt::format("begin {}: {}", begin(i), begin(i) < cursor ? "an overlap" : "a hole"));
      }
      cursor += tensors[i].bytes.size();
    }
    if (cursor != data_.size()) {
      throw FileError(file_, "file size", fmt::format("{} bytes of tensor data", cursor),
                      fmt::format("{} bytes after the header", data_.size()));
    }
  }

  const std::string& file_;
  std::string_view header_;
  std::span<const std::byte> data_;
};

}  // namespace

int64_t safetensors_element_bits(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int64_t> kBits[] = {
      {"BF16", 16}, {"F32", 32}, {"F16", 16}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F64", 64},
      {"I64", 64},  {"I32", 32}, {"I16", 16}, {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},
      {"U8", 8},    {"BOOL", 8}, {"C64", 64}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (const auto& [name, bits] : kBits) {
    if (name == dtype) return bits;
  }
  return 0;
}

std::vector<FileTensor> parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  return HeaderParser(bytes, file).parse();
}

std::vector<std::pair<std::string, std::string>> parse_safetensors_index(std::string_view json,
                                                                         const std::string& file) {
  simdjson::dom::parser parser;
  simdjson::dom::object index, weight_map;
  simdjson::error_code error = parser.allocate(json.size(), kMaxDepth);
  if (!error) error = parser.parse(json.data(), json.size()).get(index);
  if (error) throw FileError(file, "JSON", "an object", simdjson::error_message(error));
  bool found = false;
  for (const auto& [key, value] : index) {
    if (key != "weight_map") continue;
    if (std::exchange(found, true)) throw FileError(file, "weight_map", "one", "two");
    if (value.get(weight_map)) throw FileError(file, "weight_map", "an object", describe(value));
  }
  if (!found) throw FileError(file, "weight_map", "an object of tensor names and file names", "nothing");

  std::vector<std::pair<std::string, std::string>> shard_of;
  shard_of.reserve(weight_map.size());
  std::unordered_set<std::string_view> names;
  names.reserve(weight_map.size());
  for (const auto& [name, value] : weight_map) {
    const auto field = [tensor = name] { return fmt::format("weight_map {}", qnext::quoted(tensor, 200)); };
    std::string_view shard;
    if (value.get(shard)) throw FileError(file, field(), "a file name", describe(value));
    // Only files of the directory itself: an index must not make us read (and report about) others.
    const bool plain = !shard.empty() && shard != "." && shard != ".." &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == shard.npos;
    if (!plain) throw FileError(file, field(), "the name of a file in the same directory", qnext::quoted(shard));
    if (!names.insert(name).second) throw FileError(file, field(), "each tensor once", "the tensor twice");
    shard_of.emplace_back(name, shard);
  }
  return shard_of;
}

namespace {
/// True only when there is certainly no such file: one that cannot be looked at is for the opener to complain about.
bool absent(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::status(path, ignored).type() == std::filesystem::file_type::not_found;
}
}  // namespace

SafetensorsCheckpoint::SafetensorsCheckpoint(const std::filesystem::path& directory) : Checkpoint(directory) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    throw Error(fmt::format("{}: expected a model directory, found {}", directory.string(),
                            absent(directory) ? "nothing" : "something else"));
  }
  const fs::path single = directory / "model.safetensors", index = directory / "model.safetensors.index.json";
  if (!absent(single)) {  // the order of transformers when both are there
    add_file(single);
    return;
  }
  if (absent(index)) {
    throw Error(fmt::format("{}: expected model.safetensors or model.safetensors.index.json, found neither",
                            directory.string()));
  }
  const auto shard_of = parse_safetensors_index(read_text_file(index, kMaxIndexBytes), index.string());
  std::map<std::string_view, const std::string*> shards;  // shard -> its file name in messages
  for (const auto& [tensor, shard] : shard_of) {
    auto& file = shards[shard];
    if (file != nullptr) continue;
    if (absent(directory / shard)) {
      throw FileError(index.string(), fmt::format("weight_map {}", qnext::quoted(tensor, 200)), "a file that exists",
                      qnext::quoted(shard, 200) + ", which is missing");
    }
    file = add_file(directory / shard);
  }
  for (const auto& [tensor, shard] : shard_of) {
    const FileTensor* found = find(tensor);
    if (found == nullptr || found->file != shards[shard]) {
      throw FileError(index.string(), fmt::format("weight_map {}", qnext::quoted(tensor, 200)),
                      "a tensor of " + qnext::quoted(shard, 200),
                      found == nullptr ? "no such tensor" : "it in " + *found->file);
    }
  }
}

const std::string* SafetensorsCheckpoint::add_file(const std::filesystem::path& path) {
  files_.emplace_back(path);
  file_names_.push_back(std::make_unique<std::string>(path.string()));
  const std::string* name = file_names_.back().get();
  for (FileTensor& tensor : parse_safetensors(files_.back().bytes(), *name)) {
    std::string key = tensor.name;
    const auto [it, inserted] = tensors_.try_emplace(std::move(key), std::move(tensor));
    if (!inserted) {
      throw FileError(*name, fmt::format("tensor {}", qnext::quoted(it->first, 200)), "each tensor in one file",
                      "it also in " + *it->second.file);
    }
  }
  return name;
}

int64_t SafetensorsCheckpoint::file_bytes() const {
  int64_t sum = 0;
  for (const MappedFile& file : files_) sum += static_cast<int64_t>(file.bytes().size());
  return sum;
}

}  // namespace qnext
