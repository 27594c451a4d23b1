#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/testing/temporary_directory.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;
using testing::write_file;

/// The bytes of a file with this header and this much data.
std::string file_text(std::string_view header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string text(sizeof(size), '\0');
  std::memcpy(text.data(), &size, sizeof(size));
  return text + std::string(header) + std::string(data_bytes, 'x');
}

std::vector<FileTensor> parse(std::string_view text, const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(text)), file);
}

/// The message of the error that the action ends in, or "none".
template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

std::string parse_error(std::string_view header, size_t data_bytes) {
  const std::string text = file_text(header, data_bytes), file = "f.safetensors";
  return error_of([&] { parse(text, file); });
}

std::string parse_error(std::string_view whole_file) {
  const std::string file = "f.safetensors";
  return error_of([&] { parse(whole_file, file); });
}

std::string tensor(std::string_view name, std::string_view dtype, std::string_view shape, size_t begin, size_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype, shape, begin, end);
}

// ---- parse_safetensors -------------------------------------------------------------------------------------------

TEST(ParseSafetensors, ReadsTensorsAsViews) {
  const std::string header = "{" + tensor("b", "F32", "[2,1]", 4, 12) + "," + tensor("a", "BF16", "[2]", 0, 4) + "," +
                             tensor("scalar", "I64", "[]", 12, 20) + "," + tensor("none", "BOOL", "[3,0]", 4, 4) +
                             R"(,"__metadata__":{"format":"pt"}}   )";
  const std::string text = file_text(header, 20), file = "f";
  const std::vector<FileTensor> tensors = parse(text, file);
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors[0].name, "b");
  EXPECT_EQ(tensors[0].dtype, DType::kF32);
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(tensors[0].bytes.data(), std::as_bytes(std::span(text)).data() + 8 + header.size() + 4);
  EXPECT_EQ(tensors[0].bytes.size(), 8u);
  EXPECT_EQ(tensors[0].file, &file);
  EXPECT_EQ(tensors[2].dtype, std::nullopt);
  EXPECT_EQ(tensors[2].dtype_text, "I64");
  EXPECT_TRUE(tensors[2].shape.empty());
  EXPECT_TRUE(tensors[3].bytes.empty());
}

TEST(ParseSafetensors, ReadsEscapedNames) {
  const std::string text = file_text(R"({"a\u00e9\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
                    file = "f";
  EXPECT_EQ(parse(text, file).at(0).name, "a\xC3\xA9\n");
}

TEST(ParseSafetensors, AFileWithoutTensors) {
  EXPECT_EQ(parse_error("{}", 0), "none");
  EXPECT_EQ(parse_error("{}", 1),
            "f.safetensors: file size: expected 0 bytes of tensor data, found 1 bytes after the header");
}

TEST(ParseSafetensors, RefusesATruncatedFile) {
  const std::string text = file_text("{" + tensor("a", "F32", "[4]", 0, 16) + "}", 16);
  EXPECT_EQ(parse_error(text), "none");
  for (size_t size = 0; size < text.size(); ++size) {
    const std::string error = parse_error(std::string_view(text).substr(0, size));
    const char* expected = size < 8                  ? "file size: expected at least the 8 bytes"
                           : size < text.size() - 16 ? "header size: expected at most the"
                                                     : "data_offsets: expected begin <= end <= ";
    EXPECT_THAT(error, HasSubstr(expected)) << size;
  }
}

TEST(ParseSafetensors, RefusesAnOverlongFile) {
  EXPECT_THAT(parse_error("{" + tensor("a", "F32", "[4]", 0, 16) + "}", 17),
              HasSubstr("file size: expected 16 bytes of tensor data, found 17 bytes after the header"));
}

TEST(ParseSafetensors, RefusesAHugeHeader) {
  std::string claimed = file_text("{}", 0);
  const uint64_t size = 100'000'001;
  std::memcpy(claimed.data(), &size, sizeof(size));
  EXPECT_EQ(parse_error(claimed),
            "f.safetensors: header size: expected at most 100000000 bytes, found 100000001 bytes");
  std::memset(claimed.data(), 0xFF, sizeof(size));
  EXPECT_THAT(parse_error(claimed), HasSubstr("found 18446744073709551615 bytes"));

  const std::string real = file_text("{}" + std::string(size - 2, ' '), 0);
  EXPECT_THAT(parse_error(real), HasSubstr("header size: expected at most 100000000 bytes, found 100000001 bytes"));
}

TEST(ParseSafetensors, RefusesOffsetsThatDoNotTileTheData) {
  const auto two = [](size_t begin_a, size_t end_a, size_t begin_b, size_t end_b) {
    return "{" + tensor("a", "U8", fmt::format("[{}]", end_a - begin_a), begin_a, end_a) + "," +
           tensor("b", "U8", fmt::format("[{}]", end_b - begin_b), begin_b, end_b) + "}";
  };
  EXPECT_EQ(parse_error(two(4, 8, 0, 4), 8), "none");
  EXPECT_THAT(
      parse_error(two(0, 4, 3, 8), 8),
      HasSubstr(
          "tensor \"b\" data_offsets: expected begin 4, the end of the tensor before it, found begin 3: an overlap"));
  EXPECT_THAT(parse_error(two(0, 4, 5, 8), 8), HasSubstr("found begin 5: a hole"));
  EXPECT_THAT(parse_error(two(1, 4, 4, 8), 8), HasSubstr("\"a\" data_offsets: expected begin 0"));
  EXPECT_THAT(parse_error(two(0, 8, 0, 8), 8), HasSubstr("an overlap"));
  EXPECT_THAT(parse_error(two(0, 8, 2, 4), 8), HasSubstr("an overlap"));
  EXPECT_THAT(parse_error(two(0, 4, 4, 9), 8),
              HasSubstr("\"b\" data_offsets: expected begin <= end <= 8, the bytes after the header, found [4, 9]"));
  EXPECT_THAT(parse_error("{" + tensor("a", "U8", "[1]", 2, 1) + "}", 8), HasSubstr("expected begin <= end"));
  const std::string far =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,18446744073709551615]}})";
  EXPECT_THAT(parse_error(far, 8), HasSubstr("expected begin <= end"));
}

TEST(ParseSafetensors, RefusesAShapeThatIsNotTheByteRange) {
  const auto error = [](const char* dtype, const char* shape) {
    return parse_error("{" + tensor("a", dtype, shape, 0, 16) + "}", 16);
  };
  EXPECT_EQ(error("F32", "[2,2]"), "none");
  EXPECT_EQ(error("F4", "[32]"), "none");
  EXPECT_EQ(error("F32", "[2,3]"),
            "f.safetensors: tensor \"a\": expected 24 bytes for F32 [2, 3], found data_offsets of 16 bytes");
  EXPECT_THAT(error("BF16", "[2,2]"), HasSubstr("expected 8 bytes"));
  EXPECT_THAT(error("F4", "[31]"), HasSubstr("expected 16 bytes for F4 [31]"));  // 15.5
  EXPECT_THAT(error("F32", "[0]"), HasSubstr("expected 0 bytes"));
  EXPECT_THAT(error("F32", "[1000000000000000000]"), HasSubstr("more than 2^63 bits"));
  EXPECT_THAT(error("F32", "[4294967296,4294967296,16]"), HasSubstr("more than 2^63 bits"));  // 0 modulo 2^64
  EXPECT_THAT(error("F32", "[0,9223372036854775807,9223372036854775807]"), HasSubstr("more than 2^63 bits"));
  EXPECT_THAT(error("F32", "[9223372036854775808]"), HasSubstr("shape: expected non-negative integers"));
  EXPECT_THAT(error("F32", "[-4]"), HasSubstr("shape: expected non-negative integers, found [-4]"));
  EXPECT_THAT(error("F32", "[-2,-2]"), HasSubstr("shape: expected non-negative integers"));
  EXPECT_THAT(error("F32", "[4.0]"), HasSubstr("shape: expected non-negative integers"));
  EXPECT_THAT(error("F32", "[\"4\"]"), HasSubstr("shape: expected non-negative integers"));
  EXPECT_THAT(error("F32", "[true]"), HasSubstr("shape: expected non-negative integers"));
  EXPECT_THAT(error("F32", "4"), HasSubstr("shape: expected a list of sizes, found 4"));
  EXPECT_THAT(error("F33", "[4]"), HasSubstr("tensor \"a\" dtype: expected a safetensors type, found \"F33\""));
}

TEST(ParseSafetensors, RefusesDuplicates) {
  const std::string a = tensor("a", "U8", "[4]", 0, 4), b = tensor("a", "U8", "[4]", 4, 8);
  EXPECT_EQ(parse_error("{" + a + "," + b + "}", 8),
            "f.safetensors: \"a\": expected each name once, found the name twice");
  EXPECT_THAT(parse_error(R"({"__metadata__":{},"__metadata__":{}})", 0), HasSubstr("the name twice"));
  EXPECT_THAT(parse_error(R"({"__metadata__":{"k":"1","k":"2"}})", 0), HasSubstr("the key twice"));
  EXPECT_THAT(parse_error(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("expected dtype, shape and data_offsets, each once, found a field \"dtype\""));
}

TEST(ParseSafetensors, RefusesMalformedHeaders) {
  for (const char* header :
       {"", " {}", "[]", "{", "{}}", "{} x", "{\"a\":}", "{'a':1}", "null", "{\"\xFF\":1}", "{,}"}) {
    EXPECT_THAT(parse_error(header, 0), HasSubstr("f.safetensors: header: expected a JSON object")) << header;
  }
  EXPECT_THAT(parse_error("{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}", 0),
              HasSubstr("header: expected a JSON object"));
  EXPECT_THAT(parse_error(R"({"a":1})", 0), HasSubstr("tensor \"a\": expected an object with dtype"));
  EXPECT_THAT(parse_error(R"({"a":{"dtype":"U8","shape":[]}})", 0),
              HasSubstr("expected dtype, shape and data_offsets"));
  EXPECT_THAT(parse_error(R"({"a":{"x":1}})", 0), HasSubstr("found a field \"x\""));
  EXPECT_THAT(parse_error(R"({"a":{"dtype":8}})", 0), HasSubstr("dtype: expected a safetensors type, found 8"));
  for (const char* offsets : {"[0]", "[0,1,2]", "[0,-1]", "[0,1.5]", "{}", "[\"0\",\"1\"]", "[0,1e0]"}) {
    const std::string header = fmt::format(R"({{"a":{{"dtype":"U8","shape":[1],"data_offsets":{}}}}})", offsets);
    EXPECT_THAT(parse_error(header, 1), HasSubstr("tensor \"a\" data_offsets: expected [begin, end]")) << offsets;
  }
  EXPECT_THAT(parse_error(R"({"__metadata__":[]})", 0), HasSubstr("__metadata__: expected an object of strings"));
  EXPECT_THAT(parse_error(R"({"__metadata__":{"a":1}})", 0), HasSubstr("__metadata__.\"a\": expected a string"));
}

// ---- Writer ------------------------------------------------------------------------------------------------------

TEST(WriteSafetensors, RoundTrips) {
  std::vector<std::byte> bytes(24);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  const std::span<const std::byte> all(bytes);
  const TensorToWrite tensors[] = {{"bytes\"\n\xC3\xA9", "U8", {3}, all.subspan(0, 3)},
                                   {"half", "BF16", {2, 1}, all.subspan(3, 4)},
                                   {"empty", "F16", {0, 5}, {}},
                                   {"scalar", "F32", {}, all.subspan(8, 4)},
                                   {"wide", "I64", {1}, all.subspan(12, 8)}};
  const TemporaryDirectory directory;
  const auto path = directory / "model.safetensors";
  for (int pass = 0; pass < 2; ++pass) {  // the second replaces the file of the first
    write_safetensors(path, tensors, {{"format", "pt"}});
    const SafetensorsCheckpoint checkpoint(directory.path());
    ASSERT_EQ(checkpoint.tensors().size(), 5u);
    EXPECT_EQ(checkpoint.file_bytes(), static_cast<int64_t>(std::filesystem::file_size(path)));
    for (const TensorToWrite& written : tensors) {
      const FileTensor* read = checkpoint.find(written.name);
      ASSERT_NE(read, nullptr) << written.name;
      EXPECT_EQ(read->dtype_text, written.dtype_text);
      EXPECT_EQ(read->shape, written.shape);
      EXPECT_TRUE(std::ranges::equal(read->bytes, written.bytes));
      const auto alignment = static_cast<uintptr_t>(safetensors_element_bits(written.dtype_text) / 8);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(read->bytes.data()) % alignment, 0u) << written.name;
    }
  }
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory.path())) ++files;
  EXPECT_EQ(files, 1u);  // no temporary is left
}

TEST(WriteSafetensors, AFailureNamesThePathAndLeavesNothing) {
  const TemporaryDirectory directory;
  EXPECT_THAT(error_of([&] { write_safetensors(directory / "missing/f.safetensors", {}); }),
              AllOf(HasSubstr("missing/f.safetensors"), HasSubstr("cannot create: No such file or directory")));
  std::filesystem::create_directories(directory / "taken/by");
  EXPECT_THAT(error_of([&] { write_safetensors(directory / "taken", {}); }), HasSubstr("cannot rename"));
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory.path())) ++files;
  EXPECT_EQ(files, 1u);
}

// ---- Checkpoints -------------------------------------------------------------------------------------------------

class Sharded : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file(directory_ / "one", file_text("{" + tensor("a", "U8", "[4]", 0, 4) + "}", 4));
    write_file(directory_ / "two",
               file_text("{" + tensor("b", "U8", "[4]", 0, 4) + "," + tensor("c", "U8", "[1]", 4, 5) + "}", 5));
  }
  /// What opening the directory with this index says.
  std::string open_error(std::string_view index) {
    write_file(directory_ / "model.safetensors.index.json", index);
    return error_of([&] { SafetensorsCheckpoint checkpoint(directory_.path()); });
  }
  TemporaryDirectory directory_;
};

TEST_F(Sharded, FindsTensorsInTheirShards) {
  ASSERT_EQ(open_error(R"({"metadata":{"total_size":9},"weight_map":{"a":"one","b":"two","c":"two"}})"), "none");
  const SafetensorsCheckpoint checkpoint(directory_.path());
  EXPECT_EQ(checkpoint.tensors().size(), 3u);
  EXPECT_EQ(*checkpoint.find("c")->file, (directory_ / "two").string());
  EXPECT_EQ(checkpoint.find("d"), nullptr);
}

TEST_F(Sharded, RefusesAMissingShard) {
  EXPECT_THAT(open_error(R"({"weight_map":{"a":"one","b":"three"}})"),
              AllOf(HasSubstr("model.safetensors.index.json: weight_map \"b\": expected a file that exists, found"),
                    HasSubstr("\"three\", which is missing")));
}

TEST_F(Sharded, RefusesAShardOutsideTheDirectory) {
  for (const char* shard : {"../one", "/etc/passwd", "..", ".", "", "sub/one", "a\\\\b", "one\\u0000"}) {
    EXPECT_THAT(open_error(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", shard)),
                HasSubstr("weight_map \"a\": expected the name of a file in the same directory"))
        << shard;
  }
}

TEST_F(Sharded, RefusesAnIndexThatContradictsTheShards) {
  EXPECT_THAT(open_error(R"({"weight_map":{"a":"one","d":"two"}})"),
              HasSubstr("weight_map \"d\": expected a tensor of \"two\", found no such tensor"));
  EXPECT_THAT(open_error(R"({"weight_map":{"a":"two","b":"two","c":"one"}})"),
              HasSubstr("weight_map \"a\": expected a tensor of \"two\", found it in "));
  write_file(directory_ / "three", file_text("{" + tensor("a", "U8", "[4]", 0, 4) + "}", 4));
  EXPECT_THAT(
      open_error(R"({"weight_map":{"a":"one","b":"two","x":"three"}})"),
      AllOf(HasSubstr("three: tensor \"a\": expected each tensor in one file, found it also in "), HasSubstr("one")));
}

TEST_F(Sharded, RefusesAMalformedIndex) {
  for (const char* index : {"", "[]", "{", "{\"weight_map\":{\"a\":\"one\"}} x"}) {
    EXPECT_THAT(open_error(index), HasSubstr("index.json: JSON: expected an object")) << index;
  }
  EXPECT_THAT(open_error("{}"),
              HasSubstr("weight_map: expected an object of tensor names and file names, found nothing"));
  EXPECT_THAT(open_error(R"({"weight_map":[]})"), HasSubstr("weight_map: expected an object, found []"));
  EXPECT_THAT(open_error(R"({"weight_map":{"a":1}})"), HasSubstr("weight_map \"a\": expected a file name, found 1"));
  EXPECT_THAT(open_error(R"({"weight_map":{"a":"one","a":"two"}})"), HasSubstr("expected each tensor once"));
  EXPECT_THAT(open_error(R"({"weight_map":{},"weight_map":{}})"), HasSubstr("weight_map: expected one, found two"));
}

TEST(SafetensorsCheckpoint, RefusesWhatIsNotAModelDirectory) {
  const auto open_error = [](const std::filesystem::path& path) {
    return error_of([&] { SafetensorsCheckpoint checkpoint(path); });
  };
  const TemporaryDirectory directory;
  EXPECT_THAT(open_error(directory / "absent"), HasSubstr("absent: expected a model directory, found nothing"));
  write_file(directory / "file", "x");
  EXPECT_THAT(open_error(directory / "file"), HasSubstr("file: expected a model directory, found something else"));
  EXPECT_THAT(open_error(directory.path()), HasSubstr("expected model.safetensors or model.safetensors.index.json"));

  std::filesystem::create_directory(directory / "model.safetensors");
  EXPECT_THAT(open_error(directory.path()), HasSubstr("model.safetensors: cannot read: not a regular file"));
  std::filesystem::remove(directory / "model.safetensors");
  write_file(directory / "model.safetensors", file_text("{}", 0));
  EXPECT_EQ(open_error(directory.path()), "none");
  write_file(directory / "model.safetensors", "");
  EXPECT_THAT(open_error(directory.path()), HasSubstr("model.safetensors: file size: expected at least the 8 bytes"));
}

TEST(SafetensorsCheckpoint, RefusesAnUnreadableFile) {
  const TemporaryDirectory directory;
  write_file(directory / "model.safetensors", file_text("{}", 0));
  std::filesystem::permissions(directory / "model.safetensors", std::filesystem::perms::none);
  std::filesystem::permissions(directory.path(), std::filesystem::perms(0755));
  const auto open_as_nobody = [&] {  // in a process of its own, since root reads everything
    if (::geteuid() == 0 && ::setuid(65534) != 0) std::abort();
    fmt::print(stderr, "{}\n", error_of([&] { SafetensorsCheckpoint checkpoint(directory.path()); }));
    std::exit(0);
  };
  EXPECT_EXIT(open_as_nobody(), ::testing::ExitedWithCode(0), "model.safetensors: cannot open: Permission denied");
}

}  // namespace
}  // namespace qnext
