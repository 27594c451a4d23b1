#include "data/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/testing/temporary_directory.h"
#include "data/dataset.h"
#include "data/shuffle.h"
#include "tokenizer/tokenizer.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using ::testing::UnorderedElementsAre;
using testing::write_file;

class PackTest : public ::testing::Test {
 protected:
  PackOptions options(std::vector<std::filesystem::path> inputs) {
    return {.inputs = std::move(inputs), .tokenizer = QNEXT_SOURCE_DIR "/models/starter", .out = directory_ / "out"};
  }
  std::filesystem::path file(const std::string& name, std::string_view text) {
    write_file(directory_ / name, text);
    return directory_ / name;
  }
  std::vector<std::string> documents() {
    const TokenDataset data(directory_ / "out");
    data.verify();
    std::vector<std::string> texts;
    for (uint64_t i = 0; i < data.document_count(); ++i) {
      std::vector<int32_t> ids;
      for (const uint32_t word : data.document(i)) ids.push_back(token_id(word));
      texts.push_back(tokenizer_.decode(ids));
    }
    return texts;
  }
  std::string bytes(const std::string& name) { return read_text_file(directory_ / "out" / name, 1 << 28); }
  static std::string lines(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += fmt::format("{{\"text\": \"story {} of the sea\"}}\n", i);
    return text;
  }

  const testing::TemporaryDirectory directory_;
  const Tokenizer tokenizer_ = Tokenizer::load(QNEXT_SOURCE_DIR "/models/starter");
};

TEST_F(PackTest, EveryFormat) {
  const auto report = pack_documents(options({
      file("a.txt", "A file is one text.\n"),
      file("b.jsonl",
           "{\"text\": \"one <|im_end|>\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, "
           "{\"role\": \"assistant\", \"content\": \"Yes\"}]}"),
  }));
  EXPECT_EQ(report.counts.documents, 3u);
  EXPECT_THAT(documents(),
              UnorderedElementsAre("A file is one text.\n<|endoftext|>", "one <|im_end|><|endoftext|>",
                                   "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>"));
  const TokenDataset data(directory_ / "out");
  EXPECT_NO_THROW(data.require_tokenizer(tokenizer_));
  EXPECT_EQ(data.target_count(), report.counts.targets);
  EXPECT_LT(data.target_count(), data.token_count());
  // Special tokens in a text are text.
  uint64_t ends = 0;
  for (uint64_t i = 0; i < 3; ++i) {
    ends += static_cast<uint64_t>(
        std::ranges::count(data.document(i), static_cast<uint32_t>(*tokenizer_.token_id("<|im_end|>"))));
  }
  EXPECT_EQ(ends, 1u);
}

TEST_F(PackTest, SeparatedText) {
  auto pack = options({file("a.txt", "==\none\ntwo\n==\n\n==\r\nthree\n==\n")});
  pack.separator = "==";
  pack_documents(pack);
  EXPECT_THAT(documents(), UnorderedElementsAre("one\ntwo\n<|endoftext|>", "three\n<|endoftext|>"));
}

TEST_F(PackTest, TheSameBytesWhateverTheThreadsAndTheMemory) {
  auto pack = options({file("a.jsonl", lines(5000)), file("b.jsonl", lines(100))});
  pack.shard_tokens = 20'000;
  const auto report = pack_documents(pack);
  ASSERT_GE(report.shards, 2u);
  std::vector<std::string> first;
  for (uint64_t i = 0; i < report.shards; ++i) first.push_back(bytes(fmt::format("shard-{:05}.tokens", i)));
  first.push_back(bytes("dataset.json"));
  pack.overwrite = true;
  pack.threads = 3;
  pack.bucket_bytes = 1000;
  pack_documents(pack);
  for (uint64_t i = 0; i < report.shards; ++i) EXPECT_EQ(bytes(fmt::format("shard-{:05}.tokens", i)), first[i]);
  EXPECT_EQ(bytes("dataset.json"), first.back());
  pack.seed = 1;
  pack_documents(pack);
  EXPECT_NE(bytes("shard-00000.tokens"), first[0]);
  // Nothing else is left in the directory.
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(pack.out)) ++files;
  EXPECT_EQ(files, report.shards + 1);
}

TEST_F(PackTest, BadRecordsAreNamedOrSkipped) {
  const auto data = file("a.jsonl", lines(3) + "{\"text\": 7}\n" + lines(2) + "{oops\n\n[]\n{}\n{\"text\": \"\"}\n");
  auto pack = options({data});
  EXPECT_THAT([&] { pack_documents(pack); },
              ThrowsMessage<Error>(HasSubstr("a.jsonl: line 4: text: expected a string, found another value")));
  EXPECT_FALSE(std::filesystem::exists(pack.out / "dataset.json"));
  pack.skip_bad = true;
  const auto report = pack_documents(pack);
  EXPECT_EQ(report.counts.documents, 5u);
  EXPECT_EQ(report.skipped, 5u);
  EXPECT_THAT(report.bad_records,
              ElementsAre(HasSubstr("line 4: text: expected a string"), HasSubstr("line 7: expected a JSON object"),
                          HasSubstr("line 9: expected a JSON object"), HasSubstr("line 10: expected \"text\""),
                          HasSubstr("line 11: expected a text, found an empty one")));
}

TEST_F(PackTest, FormatsAreHeldTo) {
  auto pack = options({file("a.jsonl", "{\"text\": \"x\"}\n")});
  pack.format = InputFormat::kChat;
  EXPECT_THAT([&] { pack_documents(pack); }, ThrowsMessage<Error>(HasSubstr("line 1: messages: expected a list")));
  pack = options({file("a.txt", "\xFF\xFE")});
  EXPECT_THAT([&] { pack_documents(pack); }, ThrowsMessage<Error>(HasSubstr("document 1: expected UTF-8")));
}

TEST_F(PackTest, Refusals) {
  const auto refused = [&](const PackOptions& pack, const char* message) {
    EXPECT_THAT([&] { pack_documents(pack); }, ThrowsMessage<Error>(HasSubstr(message)));
  };
  refused(options({}), "no inputs");
  refused(options({directory_ / "absent.txt"}), "absent.txt: no such file");
  refused(options({directory_.path()}), "is a directory");
  refused(options({file("empty.jsonl", "\n")}), "the inputs hold no documents");
  refused(options({file("empty.txt", "")}), "document 1: expected a text, found an empty one");
  auto pack = options({file("a.txt", "x")});
  pack.end_token = "<|none|>";
  refused(pack, "the tokenizer has no token \"<|none|>\"");
  pack.end_token = "<|im_end|>";
  pack_documents(pack);
  EXPECT_THAT(documents(), ElementsAre("x<|im_end|>"));
  refused(pack, "out: holds a data set already");
  pack.overwrite = pack.skip_bad = true;
  pack.inputs = {file("bad.jsonl", "1\n2\n")};
  refused(pack, "all 2 records are bad, the first: ");
}

TEST(DocumentShuffleTest, OrderIsThatOfKeyAndOrdinal) {
  const testing::TemporaryDirectory directory;
  for (const size_t buckets : {1, 7}) {
    DocumentShuffle shuffle(directory.path(), buckets);
    const std::vector<uint32_t> large(100'000, 9);
    const auto add = [&](uint64_t key, uint64_t ordinal, uint32_t word) {
      shuffle.add(key, ordinal, std::vector<uint32_t>{word});
    };
    add(UINT64_MAX, 0, 5);
    add(uint64_t{1} << 40, 3, 2);
    add(uint64_t{1} << 40, 1, 1);
    add(0, 2, 0);
    shuffle.add(uint64_t{1} << 63, 4, large);
    add(uint64_t{1} << 62, 5, 3);
    std::vector<uint32_t> order;
    shuffle.for_each([&](std::span<const uint32_t> words) {
      order.push_back(words[0]);
      EXPECT_EQ(words.size(), words[0] == 9 ? large.size() : 1);
    });
    EXPECT_THAT(order, ElementsAre(0u, 1u, 2u, 3u, 9u, 5u));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

}  // namespace
}  // namespace qnext
