#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/testing/temporary_directory.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

/// A file put together field by field.
struct Bytes {
  std::string text;

  template <typename T>
  Bytes& put(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Bytes& u32(uint32_t value) { return put(value); }
  Bytes& u64(uint64_t value) { return put(value); }
  Bytes& str(std::string_view value) {
    u64(value.size()).text += value;
    return *this;
  }
  Bytes& header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    text += "GGUF";
    return u32(version).u64(tensors).u64(keys);
  }
  Bytes& tensor(std::string_view name, const std::vector<uint64_t>& ne, uint32_t type, uint64_t offset) {
    str(name).u32(static_cast<uint32_t>(ne.size()));
    for (uint64_t size : ne) u64(size);
    return u32(type).u64(offset);
  }
  Bytes& data(size_t size, size_t alignment = 32) {
    text.append((alignment - text.size() % alignment) % alignment + size, '\0');
    return *this;
  }

  GgufFile parse() const {
    static const std::string kFile = "f.gguf";
    return parse_gguf(std::as_bytes(std::span(text)), kFile);
  }
  std::string message() const {
    return error_of([this] { parse(); });
  }
};

/// A file with one tensor.
Bytes one_tensor(const std::vector<uint64_t>& ne, uint32_t type, uint64_t offset, size_t data) {
  return Bytes().header(1, 0).tensor("t", ne, type, offset).data(data);
}
/// A file with one pair; `fill` writes its type and value.
std::string message_of_value(const std::function<void(Bytes&)>& fill) {
  Bytes bytes;
  bytes.header(0, 1).str("key");
  fill(bytes);
  return bytes.message();
}

TEST(ParseGguf, ReadsWhatTheWriterWrites) {
  const TemporaryDirectory directory;
  GgufMetadata metadata;
  metadata.set("u8", uint8_t{200});
  metadata.set("i8", int8_t{-5});
  metadata.set("u16", uint16_t{60000});
  metadata.set("i16", int16_t{-30000});
  metadata.set("u32", uint32_t{4000000000});
  metadata.set("i32", int32_t{-2000000000});
  metadata.set("f32", 1e-6f);
  metadata.set("bool", true);
  metadata.set("string", "te\nxt\xFF");
  metadata.set("u64", uint64_t{1} << 63);
  metadata.set("i64", int64_t{-1} << 62);
  metadata.set("f64", 0.1);
  metadata.set("a.u8", GgufArray(std::vector<uint8_t>{1, 2}));
  metadata.set("a.i8", GgufArray(std::vector<int8_t>{-1}));
  metadata.set("a.u16", GgufArray(std::vector<uint16_t>{}));
  metadata.set("a.i16", GgufArray(std::vector<int16_t>{3, -3}));
  metadata.set("a.u32", GgufArray(std::vector<uint32_t>{4}));
  metadata.set("a.i32", GgufArray(std::vector<int32_t>{-4}));
  metadata.set("a.f32", GgufArray(std::vector<float>{0.5f}));
  metadata.set("a.bool", GgufArray(std::vector<bool>{true, false}));
  metadata.set("a.string", GgufArray(std::vector<std::string>{"x", ""}));
  metadata.set("a.u64", GgufArray(std::vector<uint64_t>{5}));
  metadata.set("a.i64", GgufArray(std::vector<int64_t>{-5}));
  metadata.set("a.f64", GgufArray(std::vector<double>{0.25}));
  std::vector<TensorSpec> specs;
  for (DType dtype : kAllDTypes) {
    if (gguf_type_of(dtype)) specs.push_back({std::string(dtype_name(dtype)), dtype, {3, 256}});
  }
  specs.push_back({"empty", DType::kF32, {0, 4}});
  specs.push_back({"four", DType::kF16, {2, 3, 1, 5}});
  for (uint32_t alignment : {8u, 32u, 4096u}) {
    const auto path = directory / "f.gguf";
    const auto writer = create_gguf(path, metadata, specs, alignment);
    std::vector<std::vector<std::byte>> data;
    for (const TensorSpec& spec : specs) {
      int64_t elements = 1;
      for (int64_t size : spec.shape) elements *= size;
      data.emplace_back(static_cast<size_t>(bytes_of(spec.dtype, elements)), static_cast<std::byte>(data.size() + 1));
      writer->append(data.back());
    }
    writer->finish();

    const GgufCheckpoint checkpoint(path);
    const size_t keys = metadata.entries().size();
    ASSERT_EQ(checkpoint.metadata().entries().size(), alignment == 32 ? keys : keys + 1);
    for (size_t i = 0; i < keys; ++i) EXPECT_EQ(checkpoint.metadata().entries()[i], metadata.entries()[i]);
    EXPECT_EQ(checkpoint.tensors().size(), specs.size());
    for (size_t i = 0; i < specs.size(); ++i) {
      const FileTensor* tensor = checkpoint.find(specs[i].name);
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(tensor->dtype, specs[i].dtype);
      EXPECT_EQ(tensor->dtype_text, dtype_name(specs[i].dtype));
      EXPECT_EQ(tensor->shape, specs[i].shape);
      EXPECT_TRUE(std::ranges::equal(tensor->bytes, data[i])) << tensor->name;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->bytes.data()) % alignment, 0u);
    }
    EXPECT_EQ(checkpoint.file_bytes(), static_cast<int64_t>(std::filesystem::file_size(path)));
  }
}

TEST(ParseGguf, AcceptsVersion2AndUnknownToUsTypesAndAShortEnd) {
  EXPECT_EQ(Bytes().header(0, 0, 2).message(), "none");
  const Bytes bytes = Bytes().header(2, 0).tensor("i", {3}, 26, 0).tensor("x", {256}, 16, 32).data(32 + 66);
  const GgufFile file = bytes.parse();
  EXPECT_EQ(file.tensors[0].dtype, std::nullopt);
  EXPECT_EQ(file.tensors[0].dtype_text, "I32");
  EXPECT_EQ(file.tensors[1].dtype_text, "IQ2_XXS");
}

TEST(ParseGguf, RefusesWhatIsNoGguf) {
  EXPECT_THAT(Bytes().message(), HasSubstr("f.gguf: magic: expected \"GGUF\", found \"\""));
  EXPECT_THAT(Bytes{"GGML...."}.message(), HasSubstr("magic: expected \"GGUF\", found \"GGML\""));
  EXPECT_THAT(Bytes().header(0, 0, 1).message(), HasSubstr("version: expected 2 or 3, little-endian, found 1"));
  EXPECT_THAT(Bytes().header(0, 0, 4).message(), HasSubstr("found 4"));
  EXPECT_THAT(Bytes().header(0, 0, 3u << 24).message(), HasSubstr("found a big-endian file"));
}

TEST(ParseGguf, RefusesAnyPrefixOfAFile) {
  Bytes bytes;
  bytes.header(2, 3).str("s").u32(8).str("text").str("a").u32(9).u32(8).u64(2).str("x").str("yy");
  bytes.str("b").u32(7).put(uint8_t{1});
  bytes.tensor("m", {32, 2}, 8, 0).tensor("v", {5}, 0, 96).data(96 + 20);
  ASSERT_EQ(bytes.message(), "none");
  for (size_t size = 0; size < bytes.text.size(); ++size) {
    EXPECT_THAT(Bytes{bytes.text.substr(0, size)}.message(), HasSubstr("f.gguf: ")) << size;
  }
}

TEST(ParseGguf, RefusesCountsAndLengthsPastTheEnd) {
  for (const uint64_t many : {uint64_t{1}, uint64_t{1} << 32, uint64_t{1} << 61, UINT64_MAX}) {
    EXPECT_THAT(Bytes().header(many, 0).message(),
                HasSubstr("tensor count: expected at most 0, for which the file has"));
    EXPECT_THAT(Bytes().header(0, many).message(), HasSubstr("key count: expected at most 0"));
    EXPECT_THAT(message_of_value([&](Bytes& b) { b.u32(8).u64(many); }),
                HasSubstr("\"key\": expected a string of at most 0 bytes, found one of"));
    for (const uint32_t type : {0u, 4u, 8u, 12u}) {
      EXPECT_THAT(message_of_value([&](Bytes& b) { b.u32(9).u32(type).u64(many); }),
                  HasSubstr("\"key\": expected at most 0, for which the file has bytes, found"));
    }
    Bytes key;
    key.header(0, 1).u64(many).u32(8).u64(0);
    if (many > 12) {
      EXPECT_THAT(key.message(), HasSubstr("key 0: expected a string of at most"));
    }
    Bytes name;
    name.header(1, 0).u64(many).text.append(64, '\0');
    if (many > 64) {
      EXPECT_THAT(name.message(), HasSubstr("name of tensor 0: expected a string of at most 63 bytes"));
    }
  }
  Bytes long_key;
  long_key.header(0, 1).str(std::string(65536, 'k')).u32(0).put(uint8_t{1});
  EXPECT_THAT(long_key.message(), HasSubstr("key 0: expected a string of at most 65535 bytes, found one of 65536"));
}

TEST(ParseGguf, RefusesBadValues) {
  EXPECT_THAT(message_of_value([](Bytes& b) { b.u32(13).u64(0); }),
              HasSubstr("\"key\": expected a value type from 0 to 12, found 13"));
  EXPECT_THAT(message_of_value([](Bytes& b) { b.u32(UINT32_MAX).u64(0); }), HasSubstr("found -1"));
  EXPECT_THAT(message_of_value([](Bytes& b) { b.u32(9).u32(99).u64(0); }), HasSubstr("found 99"));
  EXPECT_THAT(message_of_value([](Bytes& b) { b.u32(7).put(uint8_t{2}); }),
              HasSubstr("expected a bool, 0 or 1, found 2"));
  // However deep: the first array in an array ends it.
  EXPECT_THAT(message_of_value([](Bytes& b) {
                b.u32(9);
                for (int i = 0; i < 100000; ++i) b.u32(9).u64(1);
              }),
              HasSubstr("\"key\": expected an array of plain values, found an array of arrays"));
  Bytes twice;
  twice.header(0, 2).str("k\n").u32(0).put(uint8_t{1}).str("k\n").u32(0).put(uint8_t{1});
  EXPECT_THAT(twice.message(), HasSubstr("\"k\\x0a\": expected each key once, found the key twice"));
}

TEST(ParseGguf, RefusesBadAlignment) {
  for (const auto& [value, found] : {std::pair(0u, "0"), {48u, "48"}, {33u, "33"}, {UINT32_MAX, "4294967295"}}) {
    Bytes bytes;
    bytes.header(0, 1).str("general.alignment").u32(4).u32(value);
    EXPECT_THAT(bytes.message(), AllOf(HasSubstr("general.alignment: expected"), HasSubstr(found)));
  }
  Bytes text;
  text.header(0, 1).str("general.alignment").u32(8).str("32");
  EXPECT_THAT(text.message(), HasSubstr("general.alignment: expected an integer from 1 to"));
  Bytes huge;  // past the end: no tensor can lie there
  huge.header(1, 1).str("general.alignment").u32(4).u32(1u << 30).tensor("t", {1}, 0, 0).data(64);
  EXPECT_THAT(huge.message(), HasSubstr("tensor \"t\" offset: expected 4 bytes inside the 0 bytes of data"));
}

TEST(ParseGguf, RefusesBadShapesAndTypes) {
  EXPECT_EQ(one_tensor({8, 2}, 0, 0, 64).message(), "none");
  EXPECT_THAT(one_tensor({}, 0, 0, 64).message(),
              HasSubstr("tensor \"t\" shape: expected 1 to 4 dimensions, found 0"));
  EXPECT_THAT(one_tensor({1, 1, 1, 1, 1}, 0, 0, 64).message(), HasSubstr("found 5"));
  EXPECT_THAT(one_tensor({uint64_t{1} << 63}, 0, 0, 64).message(), HasSubstr("shape: expected sizes from 0 on"));
  // Products that wrap: to 0, to a small number, in elements or only in bytes.
  for (const std::vector<uint64_t>& ne :
       {std::vector<uint64_t>{1ull << 32, 1ull << 32}, {1ull << 62, 4}, {(1ull << 62) + 1, 4}, {1ull << 62}}) {
    EXPECT_THAT(one_tensor(ne, 0, 0, 64).message(), HasSubstr("shape: expected fewer than 2^63 bytes")) << ne[0];
  }
  for (const std::vector<uint64_t>& ne : {std::vector<uint64_t>{1ull << 32, 1ull << 32, 0}, {0, 1ull << 32, 1ull << 32}}) {
    EXPECT_THAT(one_tensor(ne, 0, 0, 64).message(), HasSubstr("fewer than 2^63 bytes")) << ne[0];
  }
  for (const uint32_t type : {4u, 5u, 31u, 40u, 1000u}) {
    EXPECT_THAT(one_tensor({8}, type, 0, 64).message(), HasSubstr("tensor \"t\" type: expected a type of ggml"));
  }
  EXPECT_THAT(one_tensor({8}, UINT32_MAX, 0, 64).message(), HasSubstr("found -1"));
  EXPECT_THAT(one_tensor({16, 2}, 8, 0, 64).message(),
              HasSubstr("shape: expected rows of whole blocks, 32 elements of Q8_0, found rows of 16"));
  EXPECT_THAT(one_tensor({32, 8}, 12, 0, 4096).message(), HasSubstr("256 elements of Q4_K, found rows of 32"));
}

TEST(ParseGguf, RefusesBadOffsets) {
  EXPECT_THAT(one_tensor({8, 2}, 0, 0, 63).message(),
              HasSubstr("tensor \"t\" offset: expected 64 bytes inside the 63 bytes of data"));
  for (const uint64_t offset : {uint64_t{32}, uint64_t{1} << 40, UINT64_MAX - 31}) {
    EXPECT_THAT(one_tensor({8, 2}, 0, offset, 64).message(),
                HasSubstr("tensor \"t\" offset: expected 64 bytes inside"));
  }
  EXPECT_THAT(one_tensor({8, 2}, 0, 16, 128).message(),
              HasSubstr("offset: expected a multiple of 32, the alignment"));
  const auto two = [](uint64_t a, uint64_t b) {
    return Bytes().header(2, 0).tensor("a", {16}, 0, a).tensor("b", {16}, 0, b).data(256).message();
  };
  EXPECT_EQ(two(0, 64), "none");
  EXPECT_EQ(two(128, 0), "none");  // any order, and holes
  EXPECT_THAT(two(0, 32),
              HasSubstr("tensor \"b\" offset: expected at least 64, the end of \"a\", found 32: an overlap"));
  EXPECT_THAT(two(96, 64), HasSubstr("tensor \"a\" offset: expected at least 128, the end of \"b\""));
  EXPECT_THAT(two(0, 0), HasSubstr("an overlap"));
  EXPECT_THAT(Bytes().header(2, 0).tensor("a", {16}, 0, 0).tensor("a", {16}, 0, 64).data(128).message(),
              HasSubstr("tensor \"a\": expected each name once, found the name twice"));
}

// ---- Parts --------------------------------------------------------------------------------------------------------

class Parts : public ::testing::Test {
 protected:
  struct Part {
    std::string tensor;
    GgufMetadata metadata;
  };
  static Part part(const std::string& tensor, int number, int count, int tensors) {
    Part part{tensor, {}};
    part.metadata.set("split.no", static_cast<uint16_t>(number));
    part.metadata.set("split.count", static_cast<uint16_t>(count));
    part.metadata.set("split.tensors.count", tensors);
    return part;
  }
  std::filesystem::path path(int number, int count) const {
    return directory_ / fmt::format("m-{:05}-of-{:05}.gguf", number, count);
  }
  static void write(const std::filesystem::path& path, const Part& part) {
    const TensorSpec spec[] = {{part.tensor, DType::kF32, {1}}};
    const auto writer = create_gguf(path, part.metadata, spec);
    writer->append(std::vector<std::byte>(4));
    writer->finish();
  }
  void SetUp() override {
    for (int i = 0; i < 3; ++i) write(path(i + 1, 3), part(std::string(1, static_cast<char>('a' + i)), i, 3, 3));
  }
  std::string open_error(int number = 1) const {
    return error_of([&] { GgufCheckpoint checkpoint(path(number, 3)); });
  }
  TemporaryDirectory directory_;
};

TEST_F(Parts, AreFoundFromAnyOfThem) {
  for (int given = 1; given <= 3; ++given) {
    const GgufCheckpoint checkpoint(path(given, 3));
    EXPECT_EQ(checkpoint.tensors().size(), 3u);
    EXPECT_EQ(*checkpoint.find("c")->file, path(3, 3).string());
    EXPECT_EQ(std::get<uint16_t>(*checkpoint.metadata().find("split.no")), 0);
    EXPECT_EQ(checkpoint.file(), path(1, 3).string());
  }
}

TEST_F(Parts, RefusesAMissingPart) {
  std::filesystem::remove(path(2, 3));
  EXPECT_THAT(open_error(3), HasSubstr("m-00002-of-00003.gguf: expected part 2 of 3, found no such file"));
}

TEST_F(Parts, RefusesPartsThatDoNotBelongTogether) {
  write(path(2, 3), part("b", 2, 3, 3));
  EXPECT_THAT(open_error(), HasSubstr("m-00002-of-00003.gguf: split.no: expected 1, found 2"));
  write(path(2, 3), part("b", 1, 4, 3));
  EXPECT_THAT(open_error(), HasSubstr("split.count: expected 3 as in the file's name, found 4"));
  write(path(2, 3), {"b", {}});
  EXPECT_THAT(open_error(), HasSubstr("split.count: expected 3 as in the file's name, found nothing"));
  write(path(2, 3), part("a", 1, 3, 3));
  EXPECT_THAT(open_error(), HasSubstr("tensor \"a\": expected each tensor in one part, found it also in "));
  write(path(2, 3), part("b", 1, 3, 3));
  write(path(1, 3), part("a", 0, 3, 4));
  EXPECT_THAT(open_error(), HasSubstr("split.tensors.count: expected 4 tensors in all parts, found 3"));
}

TEST_F(Parts, APartUnderAnotherNameSaysHowItMustBeCalled) {
  std::filesystem::rename(path(1, 3), directory_ / "renamed.gguf");
  EXPECT_THAT(error_of([&] { GgufCheckpoint checkpoint(directory_ / "renamed.gguf"); }),
              HasSubstr("split.count: expected 1, or a name that ends as in -00001-of-00002.gguf, found 3"));
}

TEST(GgufParts, OnlyNamesOfTheFormHaveParts) {
  for (const char* name : {"m.gguf", "-00001-of-00002", "m-0001-of-00002.gguf", "m-00003-of-00002.gguf",
                           "m-00000-of-00002.gguf", "m-+0001-of-00002.gguf", "m-00001-of-00002.gguf.bak"}) {
    EXPECT_EQ(gguf_parts(name).size(), 1u) << name;
  }
  EXPECT_EQ(gguf_parts("d/m-00002-of-00002.gguf").front(), "d/m-00001-of-00002.gguf");
}

// ---- Fields -------------------------------------------------------------------------------------------------------

TEST(GgufFields, ConvertAndComplain) {
  GgufMetadata metadata;
  metadata.set("i8", int8_t{-1});
  metadata.set("u64", UINT64_MAX);
  metadata.set("f32", 1e-6f);
  metadata.set("nan", std::nanf(""));
  metadata.set("text", "x");
  metadata.set("bool", true);
  metadata.set("list", GgufArray(std::vector<uint16_t>{1, 300}));
  const std::string file = "f";
  const GgufFields fields(metadata, file);
  EXPECT_EQ(fields.integer("i8", -1, 1), -1);
  EXPECT_EQ(fields.integer("absent", 0, 1), std::nullopt);
  EXPECT_EQ(fields.number("f32", 0, 1), 1e-6);  // not 9.99999997e-7
  EXPECT_EQ(fields.number("i8", -5, 5), -1.0);
  EXPECT_EQ(fields.integers("list", 0, 300), (std::vector<int64_t>{1, 300}));
  EXPECT_EQ(error_of([&] { fields.integer("i8", 0, 1); }), "f: i8: expected an integer from 0 to 1, found -1");
  EXPECT_THAT(error_of([&] { fields.integer("u64", 0, INT64_MAX); }), HasSubstr("found 18446744073709551615"));
  EXPECT_THAT(error_of([&] { fields.integer("bool", 0, 1); }), HasSubstr("found true"));
  EXPECT_THAT(error_of([&] { fields.number("nan", 0, 1); }),
              HasSubstr("nan: expected a number from 0 to 1, found nan"));
  EXPECT_THAT(error_of([&] { fields.number("text", 0, 1); }), HasSubstr("found \"x\""));
  EXPECT_THAT(error_of([&] { fields.boolean("i8"); }), HasSubstr("i8: expected a bool, found -1"));
  EXPECT_THAT(error_of([&] { fields.text("list"); }), HasSubstr("expected a string, found an array of 2 u16"));
  EXPECT_THAT(error_of([&] { fields.texts("list"); }), HasSubstr("expected an array of strings"));
  EXPECT_THAT(error_of([&] { fields.booleans("text"); }), HasSubstr("expected an array of bools"));
  EXPECT_THAT(error_of([&] { fields.integers("list", 0, 299); }),
              HasSubstr("list[1]: expected an array of integers"));
}

}  // namespace
}  // namespace qnext
