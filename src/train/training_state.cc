#include "train/training_state.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "base/checksum.h"
#include "base/error.h"
#include "formats/json.h"

namespace qnext {

namespace {

using Json = nlohmann::json;

constexpr int64_t kMost = int64_t{1} << 50;  // of steps, tokens, documents

std::string hex(uint64_t value) { return fmt::format("{:016x}", value); }

Json to_json(const std::vector<LanePosition>& lanes) {
  Json list = Json::array();
  for (const LanePosition& lane : lanes) list.push_back({lane.document, lane.offset, lane.context_begin});
  return list;
}

std::vector<LanePosition> lanes_of(const JsonFields& fields, const char* key) {
  const Json* list = fields.find(key);
  const char* expected = "a list of [document, offset, context_begin]";
  if (list == nullptr || !list->is_array()) fields.fail(key, expected);
  std::vector<LanePosition> lanes;
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& item = (*list)[i];
    if (!item.is_array() || item.size() != 3 || !std::ranges::all_of(item, [](const Json& x) { return x.is_number_integer(); })) {
      fields.fail_item(key, i, expected);
    }
    lanes.push_back({item[0].get<int64_t>(), item[1].get<int64_t>(), item[2].get<int64_t>()});
  }
  return lanes;
}

bool is_checksum(std::string_view text) {
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == text.npos;
}

std::map<std::string, std::string> texts_of(const JsonFields& fields, const Json& json, const char* key) {
  std::map<std::string, std::string> texts;
  const auto object = fields.object(key);
  if (!object) fields.fail(key, "an object");
  for (const auto& [name, value] : json[key].items()) {
    if (!value.is_string()) object->fail(name, "a text");
    texts[name] = value.get<std::string>();
  }
  return texts;
}

}  // namespace

std::string checksum_text(std::string_view bytes) { return hex(checksum(std::as_bytes(std::span(bytes)))); }

std::string training_state_json(const TrainingState& state) {
  Json json{{"version", 1},
            {"step", state.step},
            {"tokens_seen", state.tokens_seen},
            {"data_fingerprint", hex(state.data_fingerprint)},
            {"position",
             {{"epoch", state.position.epoch},
              {"next", state.position.next},
              {"documents", state.position.documents},
              {"lanes", to_json(state.position.lanes)},
              {"waiting", to_json(state.position.waiting)}}},
            {"best_step", state.best_step},
            {"best_loss", state.best_loss},
            {"config", state.config},
            {"files", state.files}};
  json["checksum"] = checksum_text(json.dump());
  return json.dump(1) + "\n";
}

TrainingState parse_training_state(const std::string& text, const std::string& file, bool altered) {
  Json json = parse_json_object(text, file);
  const JsonFields fields(json, file);
  const std::string stated = fields.text("checksum").value_or("nothing");
  json.erase("checksum");
  if (const std::string found = checksum_text(json.dump()); found != stated && !altered) {
    throw FileError(file, "checksum", stated, found);
  }
  if (fields.required_integer("version", 0, INT32_MAX) != 1) fields.fail("version", "1");
  TrainingState state;
  state.step = fields.required_integer("step", 1, kMost);
  state.tokens_seen = fields.required_integer("tokens_seen", 1, kMost);
  const std::string fingerprint = fields.text("data_fingerprint").value_or("");
  if (!is_checksum(fingerprint)) fields.fail("data_fingerprint", "16 hexadecimal digits");
  state.data_fingerprint = std::stoull(fingerprint, nullptr, 16);
  state.best_step = fields.required_integer("best_step", 0, kMost);
  state.best_loss = fields.number("best_loss", -1e300, 1e300).value_or(0.0);
  const auto position = fields.object("position");
  if (!position) fields.fail("position", "an object");
  state.position = {position->required_integer("epoch", 0, kMost), position->required_integer("next", 0, kMost),
                    position->required_integer("documents", 0, kMost), lanes_of(*position, "lanes"),
                    lanes_of(*position, "waiting")};
  state.config = texts_of(fields, json, "config");
  state.files = texts_of(fields, json, "files");
  for (const auto& [name, sum] : state.files) {
    if (name.find('/') != name.npos || !is_checksum(sum)) {
      fields.object("files")->fail(name, "the checksum of a file of the directory");
    }
  }
  return state;
}

}  // namespace qnext
