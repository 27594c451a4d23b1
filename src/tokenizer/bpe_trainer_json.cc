#include <nlohmann/json.hpp>

#include "tokenizer/bpe_trainer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer_json.h"

namespace qnext {

namespace {

using Json = nlohmann::ordered_json;

bool has(const std::vector<std::string>& tokens, std::string_view token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

}  // namespace

const std::vector<std::string>& default_special_tokens() {
  static const std::vector<std::string> kTokens = {"<|endoftext|>",    "<|im_start|>", "<|im_end|>",
                                                   "<tool_call>",      "</tool_call>", "<tool_response>",
                                                   "</tool_response>", "<think>",      "</think>"};
  return kTokens;
}

std::string tokenizer_json(const BpeTrainer::Result& result) {
  Json added = Json::array();
  size_t id = result.tokens.size();
  for (const std::string& token : result.special_tokens) {
    added.push_back({{"id", id++},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", token.starts_with("<|") && token.ends_with("|>")}});
  }
  const auto byte_level = [](bool add_prefix_space, bool trim_offsets) {
    return Json{{"type", "ByteLevel"},
                {"add_prefix_space", add_prefix_space},
                {"trim_offsets", trim_offsets},
                {"use_regex", false}};
  };
  std::vector<std::string> texts;
  for (const std::string& token : result.tokens) texts.push_back(alphabet_text(token));
  // An ordered_json finds keys by searching from the start, so the object's pairs are made directly.
  Json::object_t vocabulary;
  static_cast<std::vector<std::pair<const std::string, Json>>&>(vocabulary).reserve(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    static_cast<std::vector<std::pair<const std::string, Json>>&>(vocabulary).emplace_back(texts[i], i);
  }
  Json merges = Json::array();
  for (const auto& [left, right] : result.merges) {
    merges.push_back({texts[static_cast<size_t>(left)], texts[static_cast<size_t>(right)]});
  }
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", std::move(added)},
                     {"normalizer", {{"type", "NFC"}}},
                     {"pre_tokenizer",
                      {{"type", "Sequence"},
                       {"pretokenizers", Json::array({Json{{"type", "Split"},
                                                           {"pattern", {{"Regex", std::string(kQwenPattern)}}},
                                                           {"behavior", "Isolated"},
                                                           {"invert", false}},
                                                      byte_level(false, true)})}}},
                     {"post_processor", byte_level(false, false)},
                     {"decoder", byte_level(false, false)},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", false},
                       {"vocab", std::move(vocabulary)},
                       {"merges", std::move(merges)}}}};
  return json.dump(2) + "\n";
}

std::string tokenizer_config_json(const BpeTrainer::Result& result) {
  Json config = {{"clean_up_tokenization_spaces", false}};
  const bool has_end = has(result.special_tokens, "<|endoftext|>");
  if (has(result.special_tokens, "<|im_end|>")) {
    config["eos_token"] = "<|im_end|>";
  } else if (has_end) {
    config["eos_token"] = "<|endoftext|>";
  }
  config["model_max_length"] = 262144;
  if (has_end) config["pad_token"] = "<|endoftext|>";
  config["tokenizer_class"] = "PreTrainedTokenizerFast";  // the name that every transformers version knows
  return config.dump(2) + "\n";
}

}  // namespace qnext
