#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/testing/temporary_directory.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;
using testing::write_file;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

std::vector<std::byte> pattern(size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + static_cast<size_t>(seed));
  return bytes;
}

size_t files_in(const std::filesystem::path& directory) {
  const std::filesystem::directory_iterator all(directory);
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

const std::vector<TensorSpec> kSpecs = {
    {"half", DType::kBF16, {3}}, {"empty", DType::kF32, {0, 2}}, {"wide", DType::kF32, {5, 2}}};

/// The two formats behind one face.
struct Format {
  const char* name;
  std::unique_ptr<TensorFileWriter> (*create)(const std::filesystem::path& path, std::span<const TensorSpec> specs);
};
const Format kFormats[] = {
    {"safetensors", [](const auto& path, auto specs) { return create_safetensors(path, specs); }},
    {"gguf", [](const auto& path, auto specs) { return create_gguf(path, {}, specs); }}};

class Writers : public ::testing::TestWithParam<Format> {
 protected:
  TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_ / "file";
};
INSTANTIATE_TEST_SUITE_P(, Writers, ::testing::ValuesIn(kFormats),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(Writers, TheNameHoldsTheOldFileUntilTheNewOneIsComplete) {
  write_file(path_, "old");
  {
    const auto abandoned = GetParam().create(path_, kSpecs);
    abandoned->append(pattern(6, 1));
    EXPECT_EQ(read_text_file(path_, 100), "old");
    EXPECT_EQ(files_in(directory_.path()), 2u);
  }
  EXPECT_EQ(read_text_file(path_, 100), "old");
  EXPECT_EQ(files_in(directory_.path()), 1u);  // what was abandoned is gone

  const auto writer = GetParam().create(path_, kSpecs);
  writer->append(pattern(6, 1));
  writer->append(pattern(40, 2));
  EXPECT_EQ(read_text_file(path_, 100), "old");
  writer->finish();
  EXPECT_NE(read_text_file(path_, 10000), "old");
  EXPECT_EQ(files_in(directory_.path()), 1u);
}

TEST_P(Writers, AProcessKilledHalfWayLeavesTheOldFile) {
  write_file(path_, "old");
  const auto die = [&] {
    const auto writer = GetParam().create(path_, kSpecs);
    writer->append(pattern(6, 1));
    ::kill(::getpid(), SIGKILL);
  };
  EXPECT_EXIT(die(), ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_EQ(read_text_file(path_, 100), "old");
}

TEST_P(Writers, AFailureNamesThePathAndLeavesWhatWasThere) {
  EXPECT_THAT(error_of([&] { GetParam().create(directory_ / "missing/f", kSpecs); }),
              AllOf(HasSubstr("missing/f"), HasSubstr("cannot create: No such file or directory")));
  write_file(path_, "old");
  const auto run_out_of_room = [&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::vector<TensorSpec> large = {{"large", DType::kF32, {1000, 1000}}};
    fmt::print(stderr, "{}\n", error_of([&] { GetParam().create(path_, large); }));
    std::exit(0);
  };
  EXPECT_EXIT(run_out_of_room(), ::testing::ExitedWithCode(0), "file.tmp-.*: cannot make room for .* File too large");
  EXPECT_EQ(read_text_file(path_, 100), "old");
  EXPECT_EQ(files_in(directory_.path()), 1u);
}

TEST_P(Writers, AppendsOfAnySizeMakeTheSameFile) {
  const std::vector<TensorSpec> specs = {{"a", DType::kF32, {3, 1 << 19}},
                                         {"b", DType::kF16, {7}}};  // above the buffer's size
  const auto a = pattern(6 << 20, 3), b = pattern(14, 4);
  std::string first;
  for (const size_t step : {size_t{999'983}, size_t{4096}, size_t{1} << 20, a.size()}) {
    const auto writer = GetParam().create(path_, specs);
    for (size_t i = 0; i < a.size(); i += step) writer->append(std::span(a).subspan(i, std::min(step, a.size() - i)));
    for (const std::byte& byte : b) writer->append({&byte, 1});
    writer->finish();
    const std::string text = read_text_file(path_, 100 << 20);
    if (first.empty()) first = text;
    EXPECT_TRUE(text == first) << step;
  }
  EXPECT_NE(first.find(std::string_view(reinterpret_cast<const char*>(a.data()), a.size())), first.npos);
}

TEST_P(Writers, MisuseAborts) {
  const auto too_much = [&] { GetParam().create(path_, kSpecs)->append(pattern(7, 1)); };
  EXPECT_DEATH(too_much(), "1 bytes too many for half");
  EXPECT_DEATH(GetParam().create(path_, kSpecs)->finish(), "half is not complete");
  const std::vector<TensorSpec> twice = {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}};
  EXPECT_DEATH(GetParam().create(path_, twice), "tensor .*a");
}

TEST(CreateSafetensors, TensorsAreAlignedWhateverTheOrderOfTheSpecs) {
  const TemporaryDirectory directory;
  const auto writer = create_safetensors(directory / "model.safetensors", kSpecs, {{"format", "pt"}});
  const auto half = pattern(6, 1), wide = pattern(40, 2);
  writer->append(half);
  writer->append(wide);
  writer->finish();
  const SafetensorsCheckpoint checkpoint(directory.path());
  EXPECT_TRUE(std::ranges::equal(checkpoint.find("half")->bytes, half));
  EXPECT_TRUE(std::ranges::equal(checkpoint.find("wide")->bytes, wide));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(checkpoint.find("wide")->bytes.data()) % 4, 0u);
  EXPECT_EQ(checkpoint.find("empty")->shape, (std::vector<int64_t>{0, 2}));
}

TEST(CreateGguf, HasTheLayoutOfTheFormat) {
  const TemporaryDirectory directory;
  GgufMetadata metadata;
  metadata.set("s", "text");
  metadata.set("a", GgufArray(std::vector<int32_t>{1, -1}));
  metadata.set("s", "new");  // replaces
  const TensorSpec specs[] = {{"m", DType::kQ8_0, {2, 32}}, {"v", DType::kF32, {1}}};
  const auto writer = create_gguf(directory / "f.gguf", metadata, specs, 64);
  writer->append(pattern(68, 5));
  writer->append(pattern(4, 6));
  writer->finish();

  std::string expected = "GGUF";
  const auto u32 = [&](uint32_t value) { expected.append(reinterpret_cast<char*>(&value), 4); };
  const auto u64 = [&](uint64_t value) { expected.append(reinterpret_cast<char*>(&value), 8); };
  const auto text = [&](std::string_view value) { u64(value.size()), expected += value; };
  u32(3), u64(2), u64(3);
  text("s"), u32(8), text("new");
  text("a"), u32(9), u32(5), u64(2), u32(1), u32(0xFFFFFFFF);
  text("general.alignment"), u32(4), u32(64);
  text("m"), u32(2), u64(32), u64(2), u32(8), u64(0);
  text("v"), u32(1), u64(1), u32(0), u64(128);
  const auto add = [&](const std::vector<std::byte>& bytes) {
    expected.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    expected.append((64 - expected.size() % 64) % 64, '\0');
  };
  add({}), add(pattern(68, 5)), add(pattern(4, 6));
  EXPECT_EQ(read_text_file(directory / "f.gguf", 10000), expected);
}

TEST(CreateGguf, MisuseAborts) {
  const TemporaryDirectory directory;
  const auto create = [&](TensorSpec spec, uint32_t alignment = 32) {
    create_gguf(directory / "f.gguf", {}, {&spec, 1}, alignment);
  };
  EXPECT_DEATH(create({"a", DType::kF8E4M3, {1}}), "a of type F8_E4M3, which GGUF files do not have");
  EXPECT_DEATH(create({"a", DType::kQ4_K, {2, 128}}), "a row of 128 in blocks of 256");
  EXPECT_DEATH(create({"a", DType::kF32, {}}), "a of 0 dimensions");
  EXPECT_DEATH(create({std::string(64, 'x'), DType::kF32, {1}}), "tensor name x");
  EXPECT_DEATH(create({"a", DType::kF32, {1}}, 48), "alignment 48");
}

TEST(GgufTypes, AreOneToOne) {
  for (DType dtype : kAllDTypes) {
    const auto number = gguf_type_of(dtype);
    EXPECT_EQ(number.has_value(), dtype != DType::kF8E4M3);
    if (number) {
      EXPECT_EQ(dtype_of_gguf_type(*number), dtype);
    }
  }
  EXPECT_EQ(dtype_of_gguf_type(9), std::nullopt);  // Q8_1, an intermediate form that files do not hold
}

}  // namespace
}  // namespace qnext
