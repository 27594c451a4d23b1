#include "model/peft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "base/philox.h"
#include "formats/safetensors.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Json = nlohmann::json;

Json config_json() { return {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}, {"target_modules", {"q_proj"}}}; }
PeftConfig parse(const Json& json) { return parse_peft_config(json.dump(), "adapter_config.json"); }
void expect_refused(const char* key, const Json& value, auto... matchers) {
  Json json = config_json();
  json[key] = value;
  EXPECT_THAT([&] { parse(json); },
              ThrowsMessage<FileError>(AllOf(HasSubstr("adapter_config.json"), HasSubstr(key), matchers...)))
      << json.dump();
}

TEST(PeftConfigTest, ScaleAndRankByModule) {
  Json json = config_json();
  EXPECT_EQ(parse(json).scale_of("model.layers.0.self_attn.q_proj"), 2.0);
  json["rank_pattern"] = {{"o_proj", 16}, {"^model.layers.1.mlp.shared_expert.up_proj", 2}};
  json["alpha_pattern"] = {{"layers.3.self_attn.o_proj", 32}};
  json["base_model_name_or_path"] = "Qwen/x";
  PeftConfig c = parse(json);
  EXPECT_EQ(c.base_model, "Qwen/x");
  EXPECT_EQ(c.targets, std::vector<std::string>{"q_proj"});
  EXPECT_EQ(c.rank_of("model.layers.0.self_attn.q_proj"), 4);
  EXPECT_EQ(c.rank_of("model.layers.0.self_attn.o_proj"), 16);
  EXPECT_EQ(c.rank_of("model.layers.0.self_attn.foo_proj"), 4);  // the end of a part of a name is none
  EXPECT_EQ(c.rank_of("model.layers.1.mlp.shared_expert.up_proj"), 2);
  EXPECT_EQ(c.rank_of("x.model.layers.1.mlp.shared_expert.up_proj"), 4);
  EXPECT_EQ(c.scale_of("model.layers.3.self_attn.o_proj"), 2.0);
  EXPECT_EQ(c.scale_of("model.layers.7.self_attn.o_proj"), 0.5);
  json["use_rslora"] = true;
  EXPECT_EQ(parse(json).scale_of("model.layers.7.self_attn.o_proj"), 2.0);
  json = config_json();
  json["lora_alpha"] = 0.5;
  json["target_modules"] = ".*_proj";
  EXPECT_EQ(parse(json).scale_of("any"), 0.125);
}

TEST(PeftConfigTest, WhatCannotBeHonouredIsRefused) {
  expect_refused("peft_type", "LOHA", HasSubstr("\"LORA\""));
  expect_refused("r", 0);
  expect_refused("r", 1.5);
  expect_refused("lora_alpha", nullptr);
  expect_refused("use_dora", true);
  expect_refused("use_something_new", true);
  expect_refused("bias", "all");
  expect_refused("lora_bias", true);
  expect_refused("fan_in_fan_out", true);
  expect_refused("modules_to_save", Json::array({"lm_head"}));
  expect_refused("target_parameters", Json::array({"mlp.experts.down_proj"}));
  expect_refused("trainable_token_indices", Json::array({1, 2}));
  expect_refused("init_lora_weights", "pissa_niter_4");
  expect_refused("layer_replication", Json::array({Json::array({0, 4})}));
  expect_refused("target_modules", 3);
  expect_refused("target_modules", Json::array({"q_proj", 3}));
  expect_refused("rank_pattern", Json{{"layers.(1|2).q_proj", 4}}, HasSubstr("regular expression"));
  expect_refused("rank_pattern", Json{{"q_proj", 0}});
  expect_refused("alpha_pattern", Json{{"q_proj", "much"}});
  // What means nothing is allowed.
  Json json = config_json();
  for (const char* key : {"use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"}) json[key] = false;
  for (const char* key : {"modules_to_save", "target_parameters", "use_bdlora"}) json[key] = nullptr;
  json["lora_dropout"] = 0.1;
  json["qalora_group_size"] = 16;
  json["init_lora_weights"] = true;
  parse(json);
}

TEST(LoraModulesTest, NamesShapesAndRows) {
  const ModelConfig config = testing::tiny_config();
  const std::vector<LoraModule> modules = lora_modules(config, {.tied_head = false, .mtp = true});
  const auto find = [&](const std::string& name) {
    const auto it = std::ranges::find(modules, name, &LoraModule::name);
    EXPECT_NE(it, modules.end()) << name;
    return it == modules.end() ? LoraModule{} : *it;
  };
  const LoraModule q = find("model.layers.3.self_attn.q_proj");
  EXPECT_EQ(q.rows, 2 * config.attention_width());
  ASSERT_EQ(q.parts.size(), 2u);
  EXPECT_EQ(q.parts[1].parameter, "model.layers.3.self_attn.q_proj.gate");
  const LoraModule qkvz = find("model.layers.0.linear_attn.in_proj_qkvz");
  EXPECT_EQ(qkvz.parts.size(), 4u);
  int64_t rows = 0;
  for (const auto& part : qkvz.parts) rows += part.block * part.count;
  EXPECT_EQ(rows, qkvz.rows);
  find("model.layers.0.mlp.experts.1.down_proj");
  find("model.layers.0.mlp.shared_expert_gate");
  find("lm_head");
  for (const LoraModule& m : modules) {
    EXPECT_FALSE(m.name.starts_with("mtp.") || m.name.find("embed") != m.name.npos ||
                 m.name.find("norm") != m.name.npos)
        << m.name;
  }
}

/// A model and a directory for an adapter of some modules of every kind.
class PeftTest : public ::testing::Test {
 protected:
  PeftTest() : config_(testing::tiny_config()) {
    testing::write_random_checkpoint(directory_ / "base", config_, {.dtype = DType::kBF16});
    weights_ = open();
    parts_ = stored_parts(weights_);
    std::vector<LoraSpec> specs;
    for (const char* end : {"self_attn.q_proj", "self_attn.o_proj", "in_proj_qkvz", "in_proj_ba",
                            "shared_expert.up_proj", "experts.1.down_proj", "lm_head"}) {
      for (const LoraModule& module : lora_modules(config_, parts_)) {
        if (lora_target_matches(end, module.name)) specs.push_back({module, 4, 2.0});
      }
    }
    lora_ = std::make_unique<LoraArray>(specs, *backend_);
    uint64_t draw = 0;
    for (float& x : lora_->values()) x = static_cast<float>(0.2 * (philox_uniform(5, draw++) - 0.5));
    for (size_t i = 0; i < specs.size(); ++i) EXPECT_GT(lora_->a(i).size(), 0u);
    write_peft(adapter(), {.rank = 4, .alpha = 8, .targets = {"q_proj"}, .base_model = "base"}, *lora_, DType::kF32);
  }
  fs::path adapter() {
    fs::create_directory(directory_ / "adapter");
    return directory_ / "adapter";
  }
  Weights open() { return bind_weights(config_, std::make_shared<const SafetensorsCheckpoint>(directory_ / "base")); }
  std::unique_ptr<LoraArray> load() { return load_peft(adapter(), config_, parts_, *backend_); }
  /// Writes the adapter with its tensors changed.
  void rewrite(const std::function<void(std::vector<TensorToWrite>&)>& change) {
    std::vector<TensorToWrite> tensors;
    for (const ParameterInfo& p : lora_->parameters()) {
      tensors.push_back({"base_model.model." + p.name,
                         "F32",
                         {p.rows, p.cols},
                         std::as_bytes(std::span<const float>(lora_->of(p)))});
    }
    change(tensors);
    write_safetensors(adapter() / "adapter_model.safetensors", tensors);
  }
  void expect_refused(const std::function<void(std::vector<TensorToWrite>&)>& change, auto... matchers) {
    rewrite(change);
    EXPECT_THAT([&] { load(); }, ThrowsMessage<Error>(AllOf(HasSubstr("adapter_model.safetensors"), matchers...)));
  }

  const testing::TemporaryDirectory directory_;
  const ModelConfig config_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1, Isa::kScalar);
  Weights weights_;
  StoredParts parts_;
  std::unique_ptr<LoraArray> lora_;
};

TEST_F(PeftTest, WrittenIsRead) {
  const auto got = load();
  ASSERT_EQ(got->specs().size(), lora_->specs().size());
  for (const ParameterInfo& p : lora_->parameters()) {
    const ParameterInfo* found = got->find(p.name);
    ASSERT_NE(found, nullptr) << p.name;
    EXPECT_TRUE(std::ranges::equal(got->of(*found), lora_->of(p))) << p.name;
  }
  for (const LoraSpec& spec : got->specs()) EXPECT_EQ(spec.scale, 2.0);
  const PeftConfig config = load_peft_config(adapter());
  EXPECT_EQ(config.base_model, "base");
  write_peft(adapter(), config, *lora_, DType::kBF16);
  const auto half = load();
  EXPECT_NEAR(half->b(0)[1], lora_->of(*lora_->find(half->parameters()[1].name))[1], 1e-3);
}

/// Every stored tensor, merged, against sums in double of W + 2 b a in Hugging Face's order of rows.
TEST_F(PeftTest, MergedTensorsAreTheSum) {
  const std::vector<StoredTensor> tensors = hugging_face_tensors(config_, parts_);
  Weights with = open();
  lora_->attach(with);
  const ParameterReader before(weights_), after(with);
  size_t changed = 0;
  for (const StoredTensor& t : tensors) {
    std::vector<float> w(static_cast<size_t>(t.row_count() * t.cols())), got = w;
    before.read(t, 0, t.row_count(), w);
    after.read(t, 0, t.row_count(), got);
    const auto it =
        std::ranges::find_if(lora_->specs(), [&](const LoraSpec& s) { return s.module.name + ".weight" == t.name; });
    if (it == lora_->specs().end()) {
      EXPECT_EQ(got, w) << t.name;
      continue;
    }
    ++changed;
    const auto i = static_cast<size_t>(it - lora_->specs().begin());
    const std::span<const float> a = lora_->a(i), b = lora_->b(i);
    const auto cols = static_cast<size_t>(t.cols());
    for (size_t r = 0; r < w.size() / cols; ++r) {
      for (size_t c = 0; c < cols; ++c) {
        double sum = 0.0;
        for (size_t k = 0; k < 4; ++k) sum += static_cast<double>(b[r * 4 + k]) * a[k * cols + c];
        ASSERT_NEAR(got[r * cols + c], w[r * cols + c] + 2.0 * sum, 1e-7) << t.name << " " << r << " " << c;
      }
    }
  }
  EXPECT_EQ(changed, lora_->specs().size());
}

TEST_F(PeftTest, BadAdaptersNameFileAndTensor) {
  using Tensors = std::vector<TensorToWrite>;
  expect_refused([](Tensors& t) { t[0].name = "model.layers.3.self_attn.q_proj.lora_A.weight"; },
                 HasSubstr("expected base_model.model."));
  expect_refused([](Tensors& t) { t[0].name = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"; },
                 HasSubstr("layers.9.self_attn.q_proj"), HasSubstr("no such module"));
  expect_refused([](Tensors& t) { t.erase(t.begin()); }, HasSubstr("no lora_A"));
  expect_refused([](Tensors& t) { t.erase(t.begin() + 1); }, HasSubstr("no lora_B"));
  expect_refused([](Tensors& t) { t.clear(); }, HasSubstr("none"));
  expect_refused([](Tensors& t) { std::swap(t[0].shape[0], t[0].shape[1]); }, HasSubstr("expected [4, "),
                 HasSubstr("lora_A"));
  expect_refused([](Tensors& t) { t[1].shape = {t[1].shape[0] / 2, t[1].shape[1] * 2}; }, HasSubstr(", 4], found ["));
  expect_refused([](Tensors& t) { t[0].dtype_text = "I32"; }, HasSubstr("expected F32, BF16 or F16, found I32"));
  static const std::vector<float> nan(1 << 16, NAN);
  expect_refused([](Tensors& t) { t[0].bytes = std::as_bytes(std::span(nan)).first(t[0].bytes.size()); },
                 HasSubstr("finite"));
  rewrite([](Tensors&) {});
  load();
  fs::rename(adapter() / "adapter_model.safetensors", adapter() / "adapter_model.bin");
  EXPECT_THAT([&] { load(); }, ThrowsMessage<Error>(HasSubstr("adapter_model.bin, which is not read")));
  EXPECT_THAT([&] { load_peft_config(directory_ / "base"); },
              ThrowsMessage<Error>(HasSubstr("not an adapter directory")));
}

}  // namespace
}  // namespace qnext
