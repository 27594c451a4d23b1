// qnext tokenize: text to token ids and back.
#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/find_tokenizer.h"
#include "cli/model_options.h"

namespace qnext::cli {
namespace {

constexpr const char* kFooter = R"(
Without TEXT and --file, standard input is read. Each token is printed as its id and its text; --ids prints ids alone, as
`qnext logits --tokens-file` reads them.

Examples:
  qnext tokenize "Hello, world"
  qnext tokenize --file notes.txt --ids > ids.txt
  qnext tokenize --decode "9707 11 1879"
  qnext tokenize --plain "<|im_end|> as a person typed it")";

struct TokenizeOptions {
  ModelOptions model;
  std::string text, file;
  bool has_text = false, plain = false, decode = false, ids = false, json = false;
};

std::vector<int32_t> parse_ids(const std::string& text, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  constexpr std::string_view kSeparators = " \t\r\n,[]";
  for (size_t i = text.find_first_not_of(kSeparators); i != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(kSeparators, i), text.size());
    int32_t id = -1;
    const auto [stop, error] = std::from_chars(text.data() + i, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end || id < 0) {
      throw Error(fmt::format("{} is not a token id", quoted(std::string_view(text).substr(i, end - i))));
    }
    if (id >= tokenizer.vocab_size()) {
      throw Error(fmt::format("token id {} is out of range: the tokenizer has the ids 0 to {}", id,
                              tokenizer.vocab_size() - 1));
    }
    ids.push_back(id);
    i = text.find_first_not_of(kSeparators, end);
  }
  return ids;
}

std::string dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

int tokenize(const TokenizeOptions& options) {
  const Tokenizer tokenizer = find_tokenizer(options.model.model);
  const std::string text = options.has_text ? options.text : read_input(options.file.empty() ? "-" : options.file);
  if (options.decode) {
    const std::vector<int32_t> ids = parse_ids(text, tokenizer);
    const std::string decoded = tokenizer.decode(ids);
    if (options.json) {
      fmt::print("{}\n", dump({{"ids", ids}, {"text", decoded}}));
    } else {
      fmt::print("{}\n", decoded);
    }
    return 0;
  }
  const std::vector<int32_t> ids =
      tokenizer.encode(text, options.plain ? SpecialTokens::kPlain : SpecialTokens::kParse);
  if (options.json) {
    nlohmann::ordered_json pieces = nlohmann::ordered_json::array();
    for (const int32_t id : ids) pieces.push_back(std::string(tokenizer.token_bytes(id)));
    fmt::print("{}\n", dump({{"count", ids.size()}, {"ids", ids}, {"pieces", pieces}}));
  } else if (options.ids) {
    fmt::print("{}\n", fmt::join(ids, " "));
  } else {
    for (const int32_t id : ids) fmt::print("{:>8}  {}\n", id, quoted(tokenizer.token_bytes(id)));
    fmt::print(stderr, "[{} tokens, {} bytes]\n", ids.size(), text.size());
  }
  return 0;
}

}  // namespace

void add_tokenize_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("tokenize", "text to token ids, and back with --decode");
  const auto options = std::make_shared<TokenizeOptions>();
  const CLI::Option* text = command->add_option("TEXT", options->text, "text to encode, or with --decode ids");
  add_model_option(*command, options->model);
  command->add_option("-f,--file", options->file, "read this file; - is standard input")
      ->type_name("FILE")
      ->excludes("TEXT");
  CLI::Option* plain = command->add_flag("--plain", options->plain, "special tokens in the text are ordinary text");
  command->add_flag("-d,--decode", options->decode, "ids to text")->excludes(plain);
  CLI::Option* ids = command->add_flag("--ids", options->ids, "print the ids alone, separated by spaces");
  command->add_flag("--json", options->json, "print one JSON object: count, ids, pieces")->excludes(ids);
  command->footer(kFooter);
  command->callback([options, text, &action] {
    options->has_text = text->count() > 0;
    action = [options] { return tokenize(*options); };
  });
}

}  // namespace qnext::cli
