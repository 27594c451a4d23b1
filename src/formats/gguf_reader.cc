#include <algorithm>
#include <bit>
#include <cctype>
#include <charconv>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <unordered_set>

#include "base/error.h"
#include "formats/gguf.h"

namespace qnext {

namespace {

static_assert(std::endian::native == std::endian::little, "tensors are mapped, and files are little-endian");

constexpr size_t kMaxKeyBytes = 65535, kMaxNameBytes = 63;  // the format's limit, and ggml's
constexpr uint32_t kMaxDims = 4;

/// All element types that files may hold, also those that the project does not compute with: their sizes are needed
/// to check where the data of the others lies.
struct ElementType {
  uint32_t number;
  std::string_view name;
  int64_t block_elements, block_bytes;
};
constexpr ElementType kElementTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17}};

/// Bytes that a value of a type takes in the file at least.
constexpr size_t kMinValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

/// Reads the file front to back. Every read is checked against the bytes left; messages name what was being read.
class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  GgufFile parse() {
    GgufFile result;
    const auto [tensor_count, key_count] = parse_counts();
    std::unordered_set<std::string> keys;
    for (uint64_t i = 0; i < key_count; ++i) {
      std::string key = string(fmt::format("key {}", i), kMaxKeyBytes);
      const std::string field = qnext::quoted(key, 200);
      if (!keys.insert(key).second) throw FileError(file_, field, "each key once", "the key twice");
      GgufValue value = parse_value(field);
      result.metadata.append(std::move(key), std::move(value));
    }
    const GgufFields fields(result.metadata, file_);
    const char* kAlignment = "general.alignment";
    const auto alignment =
        static_cast<uint64_t>(fields.integer(kAlignment, 1, INT32_MAX).value_or(kGgufDefaultAlignment));
    if (!std::has_single_bit(alignment)) fields.fail(kAlignment, "a power of two");
    parse_tensors(tensor_count, alignment, result.tensors);
    return result;
  }

 private:
  template <typename T>
  T number(const std::string& field) {
    T value;
    std::memcpy(&value, take(field, sizeof(T)), sizeof(T));
    return value;
  }
  const std::byte* take(const std::string& field, uint64_t size) {
    if (size > bytes_.size() - next_) {
      throw FileError(file_, field, fmt::format("{} bytes from byte {} on", size, next_),
                      fmt::format("the end of the file at {} (is it cut short?)", bytes_.size()));
    }
    const std::byte* data = bytes_.data() + next_;
    next_ += size;
    return data;
  }
  std::string string(const std::string& field, uint64_t max_bytes = UINT64_MAX) {
    const auto size = number<uint64_t>(field);
    const uint64_t left = bytes_.size() - next_;
    if (size > std::min(left, max_bytes)) {
      throw FileError(file_, field, fmt::format("a string of at most {} bytes", std::min(left, max_bytes)),
                      fmt::format("one of {} bytes", size));
    }
    return {reinterpret_cast<const char*>(take(field, size)), size};
  }
  /// Refuses a count of things that take min_bytes each and cannot be in the bytes left.
  uint64_t count(const std::string& field, uint64_t min_bytes) {
    const auto value = number<uint64_t>(field);
    const uint64_t most = (bytes_.size() - next_) / min_bytes;
    if (value > most) {
      throw FileError(file_, field, fmt::format("at most {}, for which the file has bytes", most),
                      fmt::format("{}", value));
    }
    return value;
  }

  std::pair<uint64_t, uint64_t> parse_counts() {
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
      const std::string_view start(reinterpret_cast<const char*>(bytes_.data()), std::min<size_t>(bytes_.size(), 4));
      throw FileError(file_, "magic", "\"GGUF\"", qnext::quoted(start));
    }
    next_ = 4;
    const auto version = number<uint32_t>("version");
    if (version != 2 && version != 3) {
      const bool swapped = __builtin_bswap32(version) <= 3;
      throw FileError(file_, "version", "2 or 3, little-endian",
                      swapped ? "a big-endian file" : fmt::format("{}", version));
    }
    const uint64_t tensors = count("tensor count", 8 + 4 + 8 + 4 + 8);  // name, dimensions, type, offset
    return {tensors, count("key count", 8 + 4 + 1)};                    // key, type, value
  }

  uint32_t parse_type(const std::string& field) {
    const auto type = number<uint32_t>(field);
    if (type >= std::size(kMinValueBytes)) {
      throw FileError(file_, field, "a value type from 0 to 12", fmt::format("{}", static_cast<int32_t>(type)));
    }
    return type;
  }
  template <typename T>
  T parse_plain(const std::string& field) {
    if constexpr (std::is_same_v<T, std::string>) {
      return string(field);
    } else if constexpr (std::is_same_v<T, bool>) {
      const auto byte = number<uint8_t>(field);
      if (byte > 1) throw FileError(file_, field, "a bool, 0 or 1", fmt::format("{}", byte));
      return byte == 1;
    } else {
      return number<T>(field);
    }
  }

  GgufValue parse_value(const std::string& field) {
    GgufValue value;
    dispatch(parse_type(field), [&]<size_t kType>(std::integral_constant<size_t, kType>) {
      using T = std::variant_alternative_t<kType, GgufValue>;
      if constexpr (std::is_same_v<T, GgufArray>) {
        value = parse_array(field);
      } else {
        value = parse_plain<T>(field);
      }
    });
    return value;
  }
  GgufArray parse_array(const std::string& field) {
    const uint32_t type = parse_type(field);
    if (type == static_cast<uint32_t>(GgufType::kArray)) {
      throw FileError(file_, field, "an array of plain values", "an array of arrays");
    }
    const uint64_t size = count(field, kMinValueBytes[type]);
    GgufArray array;
    dispatch(type, [&]<size_t kType>(std::integral_constant<size_t, kType>) {
      using Items = std::variant_alternative_t<kType, GgufArray>;
      if constexpr (!std::is_same_v<Items, std::monostate>) {
        Items items;
        items.reserve(size);
        for (uint64_t i = 0; i < size; ++i) items.push_back(parse_plain<typename Items::value_type>(field));
        array = std::move(items);
      }
    });
    return array;
  }
  /// Calls use(integral_constant<type>).
  template <typename Use>
  static void dispatch(uint32_t type, const Use& use) {
    [&]<size_t... kTypes>(std::index_sequence<kTypes...>) {
      (void)((type == kTypes ? (use(std::integral_constant<size_t, kTypes>()), true) : false) || ...);
    }(std::make_index_sequence<std::size(kMinValueBytes)>());
  }

  void parse_tensors(uint64_t tensor_count, uint64_t alignment, std::vector<FileTensor>& tensors) {
    std::vector<uint64_t> offsets, sizes;
    std::unordered_set<std::string> names;
    tensors.reserve(tensor_count);
    for (uint64_t i = 0; i < tensor_count; ++i) {
      FileTensor tensor;
      tensor.name = string(fmt::format("name of tensor {}", i), kMaxNameBytes);
      const std::string field = fmt::format("tensor {}", qnext::quoted(tensor.name));
      if (!names.insert(tensor.name).second) throw FileError(file_, field, "each name once", "the name twice");
      sizes.push_back(parse_shape_and_type(field, tensor));
      const auto offset = number<uint64_t>(field);
      if (offset % alignment != 0) {
        throw FileError(file_, field + " offset", fmt::format("a multiple of {}, the alignment", alignment),
                        fmt::format("{}", offset));
      }
      offsets.push_back(offset);
      tensor.file = &file_;
      tensors.push_back(std::move(tensor));
    }

    const uint64_t padded = (next_ + alignment - 1) / alignment * alignment;
    const uint64_t data = std::min<uint64_t>(padded, bytes_.size()), data_size = bytes_.size() - data;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (offsets[i] > data_size || sizes[i] > data_size - offsets[i]) {
        throw FileError(
            file_, fmt::format("tensor {} offset", qnext::quoted(tensors[i].name)),
            fmt::format("{} bytes inside the {} bytes of data (is the file cut short?)", sizes[i], data_size),
            fmt::format("offset {}", offsets[i]));
      }
      tensors[i].bytes = bytes_.subspan(data + offsets[i], sizes[i]);
    }
    std::vector<size_t> order(tensors.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {  // an empty tensor goes before its neighbour
      return std::pair(offsets[a], sizes[a]) < std::pair(offsets[b], sizes[b]);
    });
    for (size_t i = 1; i < order.size(); ++i) {
      const size_t before = order[i - 1], at = order[i];
      if (offsets[at] < offsets[before] + sizes[before]) {
        throw FileError(file_, fmt::format("tensor {} offset", qnext::quoted(tensors[at].name)),
                        fmt::format("at least {}, the end of {}", offsets[before] + sizes[before],
                                    qnext::quoted(tensors[before].name)),
                        fmt::format("{}: an overlap", offsets[at]));
      }
    }
  }

  /// Returns the size in bytes.
  uint64_t parse_shape_and_type(const std::string& field, FileTensor& tensor) {
    const auto dims = number<uint32_t>(field);
    if (dims < 1 || dims > kMaxDims) {
      throw FileError(file_, field + " shape", fmt::format("1 to {} dimensions", kMaxDims), fmt::format("{}", dims));
    }
    int64_t elements = 1;
    bool overflow = false, empty = false;
    for (uint32_t i = 0; i < dims; ++i) {
      const auto size = number<int64_t>(field);
      if (size < 0) throw FileError(file_, field + " shape", "sizes from 0 on", fmt::format("{}", size));
      tensor.shape.push_back(size);
      // With 1 for 0: a product that wraps must not hide behind a 0, for others multiply in another order.
      overflow = overflow || __builtin_mul_overflow(elements, std::max<int64_t>(size, 1), &elements);
      empty = empty || size == 0;
    }
    if (empty) elements = 0;
    const auto number_of_type = number<uint32_t>(field);
    const auto type = std::ranges::find(kElementTypes, number_of_type, &ElementType::number);
    if (type == std::end(kElementTypes)) {
      throw FileError(file_, field + " type", "a type of ggml",
                      fmt::format("{}", static_cast<int32_t>(number_of_type)));
    }
    tensor.dtype_text = type->name;
    tensor.dtype = dtype_of_gguf_type(number_of_type);
    if (tensor.shape.front() % type->block_elements != 0) {
      throw FileError(file_, field + " shape",
                      fmt::format("rows of whole blocks, {} elements of {}", type->block_elements, type->name),
                      fmt::format("rows of {}", tensor.shape.front()));
    }
    int64_t size = 0;
    overflow = overflow || __builtin_mul_overflow(elements / type->block_elements, type->block_bytes, &size);
    if (overflow) {
      throw FileError(file_, field + " shape", "fewer than 2^63 bytes",
                      fmt::format("[{}]", fmt::join(tensor.shape, ", ")));
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    return static_cast<uint64_t>(size);
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  size_t next_ = 0;
};

/// "-00002-of-00005.gguf" at the end of a name.
struct PartName {
  std::string stem;
  int count = 0;
};
constexpr size_t kDigits = 5;
std::string part_suffix(int number, int count) { return fmt::format("-{:05}-of-{:05}.gguf", number, count); }

std::optional<PartName> part_name(const std::string& name) {
  const size_t size = part_suffix(1, 1).size();
  if (name.size() < size) return std::nullopt;
  const auto number_at = [&](size_t from_end) {
    const char* begin = name.data() + name.size() - from_end;
    int value = 0;
    const auto [end, error] = std::from_chars(begin, begin + kDigits, value);
    return error == std::errc() && end == begin + kDigits ? value : -1;
  };
  const int number = number_at(size - 1), count = number_at(kDigits + 5);
  if (number < 1 || count < number || !name.ends_with(part_suffix(number, count))) return std::nullopt;
  return PartName{name.substr(0, name.size() - size), count};
}

}  // namespace

GgufFile parse_gguf(std::span<const std::byte> bytes, const std::string& file) { return Parser(bytes, file).parse(); }

std::vector<std::filesystem::path> gguf_parts(const std::filesystem::path& path) {
  const auto part = part_name(path.filename().string());
  if (!part) return {path};
  std::vector<std::filesystem::path> parts;
  for (int i = 1; i <= part->count; ++i)
    parts.push_back(path.parent_path() / (part->stem + part_suffix(i, part->count)));
  return parts;
}

GgufCheckpoint::GgufCheckpoint(const std::filesystem::path& path) : Checkpoint(path) {
  std::vector<std::filesystem::path> parts = gguf_parts(path);
  const auto add_part = [&](const std::filesystem::path& part) {
    files_.emplace_back(part);
    file_names_.push_back(std::make_unique<std::string>(part.string()));
    GgufFile file = parse_gguf(files_.back().bytes(), *file_names_.back());
    for (FileTensor& tensor : file.tensors) {
      std::string key = tensor.name;
      const auto [it, inserted] = tensors_.try_emplace(std::move(key), std::move(tensor));
      if (!inserted) {
        throw FileError(*file_names_.back(), fmt::format("tensor {}", qnext::quoted(it->first)),
                        "each tensor in one part", "it also in " + *it->second.file);
      }
    }
    return std::move(file.metadata);
  };
  const auto integer = [this](const GgufMetadata& metadata, const char* key) {
    return GgufFields(metadata, *file_names_.back()).integer(key, 0, INT32_MAX);
  };

  for (size_t i = 0; i < parts.size(); ++i) {
    std::error_code ignored;
    if (parts.size() > 1 && !std::filesystem::exists(parts[i], ignored)) {
      throw Error(
          fmt::format("{}: expected part {} of {}, found no such file", parts[i].string(), i + 1, parts.size()));
    }
    GgufMetadata metadata = add_part(parts[i]);
    const auto count = integer(metadata, "split.count"), number = integer(metadata, "split.no");
    const GgufFields fields(metadata, *file_names_.back());
    if (count.value_or(1) != static_cast<int64_t>(parts.size())) {
      fields.fail("split.count", parts.size() > 1 ? fmt::format("{} as in the file's name", parts.size())
                                                  : "1, or a name that ends as in " + part_suffix(1, 2));
    }
    if (parts.size() > 1 && number != static_cast<int64_t>(i)) fields.fail("split.no", fmt::format("{}", i));
    if (i == 0) metadata_ = std::move(metadata);
  }
  const auto total = GgufFields(metadata_, file()).integer("split.tensors.count", 0, INT32_MAX);
  if (total && *total != static_cast<int64_t>(tensors_.size())) {
    throw FileError(file(), "split.tensors.count", fmt::format("{} tensors in all parts", *total),
                    fmt::format("{}", tensors_.size()));
  }
}

int64_t GgufCheckpoint::file_bytes() const {
  int64_t sum = 0;
  for (const MappedFile& file : files_) sum += static_cast<int64_t>(file.bytes().size());
  return sum;
}

}  // namespace qnext
