// qnext inspect: what a model's files hold and what running it takes.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/mapped_file.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/peft.h"
#include "model/weights.h"
#include "runtime/memory_plan.h"
#include "runtime/model_files.h"

namespace qnext::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(
Opens every file and checks every tensor against the configuration, but runs nothing and loads nothing.

Examples:
  qnext inspect models/starter
  qnext inspect model-00001-of-00003.gguf
  qnext inspect M --context 262144 --kv bf16     memory for a full context
  qnext inspect M --tensors                      every tensor: type, shape, file
  qnext inspect M --json | jq .memory)";

struct InspectOptions {
  ModelOptions model;
  bool tensors = false, json = false;
};

struct Report {
  std::filesystem::path path;
  ModelConfig config;
  ParameterCount parameters;
  std::map<std::string, int64_t> bytes_by_type, tensors_by_type;
  int64_t attention_layers = 0, moe_layers = 0;
  bool has_mtp = false;
  MemoryPlan plan;
};

Report report_on(const Weights& weights, const ModelConfig& config, const InspectOptions& options,
                 const std::filesystem::path& path) {
  Report report{.path = path, .config = config, .parameters = count_parameters(config, weights)};
  for (const auto& [name, tensor] : weights.checkpoint->tensors()) {
    report.bytes_by_type[tensor.dtype_text] += static_cast<int64_t>(tensor.bytes.size());
    ++report.tensors_by_type[tensor.dtype_text];
  }
  report.attention_layers = std::ranges::count(config.layer_types, LayerKind::kFullAttention);
  report.moe_layers = std::ranges::count(config.layer_is_moe, true);
  report.has_mtp = weights.mtp.has_value();
  EngineOptions engine;
  engine.kv_dtype = kv_dtype(options.model);
  engine.context = config.max_position_embeddings;
  engine.planned_context = options.model.context > 0
                               ? options.model.context
                               : std::min(engine.planned_context, config.max_position_embeddings);
  report.plan = plan_memory(config, weights, engine);
  return report;
}

Json to_json(const Report& r, const Weights& weights, bool tensors) {
  const ModelConfig& c = r.config;
  Json json{{"model", r.path.string()},
            {"architecture",
             {{"type", "qwen3_next"},
              {"layers", c.num_layers()},
              {"linear_attention_layers", c.num_layers() - r.attention_layers},
              {"full_attention_layers", r.attention_layers},
              {"moe_layers", r.moe_layers},
              {"hidden_size", c.hidden_size},
              {"vocab_size", c.vocab_size},
              {"max_position_embeddings", c.max_position_embeddings},
              {"num_attention_heads", c.num_attention_heads},
              {"num_key_value_heads", c.num_key_value_heads},
              {"head_dim", c.head_dim},
              {"rope_theta", c.rope.theta},
              {"rope_dims", c.rope.dims},
              {"yarn_factor", c.rope.yarn ? Json(c.rope.factor) : Json(nullptr)},
              {"linear_num_key_heads", c.linear_num_key_heads},
              {"linear_num_value_heads", c.linear_num_value_heads},
              {"linear_key_head_dim", c.linear_key_head_dim},
              {"linear_value_head_dim", c.linear_value_head_dim},
              {"linear_conv_kernel_dim", c.linear_conv_kernel_dim},
              {"num_experts", c.num_experts},
              {"num_experts_per_tok", c.num_experts_per_tok},
              {"moe_intermediate_size", c.moe_intermediate_size},
              {"shared_expert_intermediate_size", c.shared_expert_intermediate_size},
              {"tie_word_embeddings", c.tie_word_embeddings},
              {"mtp", r.has_mtp}}},
            {"parameters", {{"total", r.parameters.total}, {"active", r.parameters.active}}},
            {"bytes_by_type", r.bytes_by_type},
            {"file_bytes", weights.checkpoint->file_bytes()},
            {"memory",
             {{"weights_mapped", r.plan.weights_mapped},
              {"weights_owned", r.plan.weights_owned},
              {"activations", r.plan.activations},
              {"kv_per_token", r.plan.kv_per_token},
              {"state_per_sequence", r.plan.state_per_sequence},
              {"context", r.plan.context},
              {"kv_at_context", r.plan.kv_per_token * r.plan.context},
              {"total", r.plan.total()},
              {"available", available_memory_bytes()}}}};
  if (tensors) {
    Json& list = json["tensors"] = Json::array();
    for (const auto& [name, tensor] : weights.checkpoint->tensors()) {
      list.push_back({{"name", name},
                      {"dtype", tensor.dtype_text},
                      {"shape", tensor.shape},
                      {"bytes", tensor.bytes.size()},
                      {"file", std::filesystem::path(*tensor.file).filename().string()}});
    }
  }
  return json;
}

void print_text(const Report& r, const Weights& weights, bool tensors) {
  const ModelConfig& c = r.config;
  const auto line = [](std::string_view what, const std::string& value) { fmt::print("{:<18}{}\n", what, value); };
  line("model", r.path.string());
  line("architecture",
       fmt::format("Qwen3-Next, {} layers: {} Gated DeltaNet, {} gated attention{}", c.num_layers(),
                   c.num_layers() - r.attention_layers, r.attention_layers, r.has_mtp ? "; MTP module" : ""));
  line("width", fmt::format("hidden {}, vocabulary {}{}", c.hidden_size, format_count(c.vocab_size),
                            c.tie_word_embeddings ? " (head tied to the embedding)" : ""));
  line("DeltaNet", fmt::format("{} key heads of {}, {} value heads of {}, convolution over {}",
                               c.linear_num_key_heads, c.linear_key_head_dim, c.linear_num_value_heads,
                               c.linear_value_head_dim, c.linear_conv_kernel_dim));
  line("attention", fmt::format("{} heads of {}, {} for keys and values; rope on {} dimensions, theta {:g}{}",
                                c.num_attention_heads, c.head_dim, c.num_key_value_heads, c.rope.dims, c.rope.theta,
                                c.rope.yarn ? fmt::format(", YaRN x{:g}", c.rope.factor) : ""));
  if (r.moe_layers > 0) {
    line("experts", fmt::format("{} of width {}, {} chosen per token, 1 shared of width {}, in {} layers",
                                c.num_experts, c.moe_intermediate_size, c.num_experts_per_tok,
                                c.shared_expert_intermediate_size, r.moe_layers));
  }
  if (r.moe_layers < c.num_layers()) {
    line("dense MLP", fmt::format("width {}, in {} layers", c.intermediate_size, c.num_layers() - r.moe_layers));
  }
  line("context", fmt::format("{} tokens", format_count(c.max_position_embeddings)));
  line("parameters", fmt::format("{} in total, {} active per token", format_large(r.parameters.total),
                                 format_large(r.parameters.active)));
  for (const auto& [type, bytes] : r.bytes_by_type) {
    line(fmt::format("  {}", type),
         fmt::format("{} in {} tensors", format_bytes(bytes), format_count(r.tensors_by_type.at(type))));
  }
  const MemoryPlan& p = r.plan;
  fmt::print("\nmemory for one sequence of {} tokens\n", format_count(p.context));
  line("  weights", fmt::format("{} mapped from files, {} of its own", format_bytes(p.weights_mapped),
                                format_bytes(p.weights_owned)));
  line("  activations", format_bytes(p.activations));
  line("  keys and values",
       fmt::format("{} ({} per token)", format_bytes(p.kv_per_token * p.context), format_bytes(p.kv_per_token)));
  line("  state", fmt::format("{} per sequence, at any length", format_bytes(p.state_per_sequence)));
  line("  total",
       fmt::format("{}; {} are available here", format_bytes(p.total()), format_bytes(available_memory_bytes())));
  if (!tensors) return;
  fmt::print("\n");
  for (const auto& [name, tensor] : weights.checkpoint->tensors()) {
    fmt::print("{:<8} [{}]  {}  {}\n", tensor.dtype_text, fmt::join(tensor.shape, ", "), name,
               std::filesystem::path(*tensor.file).filename().string());
  }
}

/// An adapter by itself: what it would be put on is not looked for. Its names come from elsewhere, so they are shown escaped.
int inspect_adapter(const std::filesystem::path& path, const InspectOptions& options) {
  const PeftConfig config = load_peft_config(path);
  const MappedFile file(path / "adapter_model.safetensors");
  const std::string name = file.path().string();
  const std::vector<FileTensor> tensors = parse_safetensors(file.bytes(), name);
  std::map<std::string, int64_t> modules;  // by the last part of their name
  int64_t parameters = 0;
  for (const FileTensor& t : tensors) {
    int64_t size = 1;
    for (const int64_t n : t.shape) size *= n;
    parameters += size;
    constexpr std::string_view kEnd = ".lora_A.weight";
    if (!t.name.ends_with(kEnd)) continue;
    const std::string module = t.name.substr(0, t.name.size() - kEnd.size());
    ++modules[module.substr(module.rfind('.') + 1)];
  }
  if (options.json) {
    Json json{{"adapter", path.string()},      {"peft_type", "LORA"},         {"rank", config.rank},
              {"alpha", config.alpha},         {"use_rslora", config.rslora}, {"target_modules", config.targets},
              {"base_model", config.base_model}, {"modules", modules},        {"parameters", parameters},
              {"file_bytes", file.bytes().size()}};
    if (options.tensors) {
      for (const FileTensor& t : tensors) json["tensors"].push_back({{"name", t.name}, {"dtype", t.dtype_text}, {"shape", t.shape}});
    }
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return 0;
  }
  const auto line = [](std::string_view what, const std::string& value) { fmt::print("{:<18}{}\n", what, value); };
  line("adapter", path.string());
  line("kind", fmt::format("LoRA of PEFT, rank {}{}, alpha {:g}{}", config.rank, config.rank_pattern.empty() ? "" : " and others",
                           config.alpha, config.rslora ? ", scaled by its root (rsLoRA)" : ""));
  line("base model", config.base_model.empty() ? "not stated" : qnext::quoted(config.base_model, 400));
  for (const auto& [module, count] : modules) line(fmt::format("  {}", qnext::quoted(module)), fmt::format("in {} places", format_count(count)));
  line("parameters", fmt::format("{} in {} tensors, {}", format_large(parameters), format_count(static_cast<int64_t>(tensors.size())),
                                 format_bytes(static_cast<int64_t>(file.bytes().size()))));
  if (!options.tensors) return 0;
  fmt::print("\n");
  for (const FileTensor& t : tensors) fmt::print("{:<8} [{}]  {}\n", t.dtype_text, fmt::join(t.shape, ", "), qnext::quoted(t.name, 200));
  return 0;
}

int inspect(const InspectOptions& options) {
  if (!options.model.model.empty() && is_peft_directory(options.model.model)) {
    return inspect_adapter(options.model.model, options);
  }
  const std::filesystem::path path = find_model(options.model.model);
  const Busy busy(fmt::format("reading {}", path.string()));
  const ModelFiles files(path);
  const ModelConfig config = files.config();
  const Weights weights = bind_weights(config, files.checkpoint());
  const Report report = report_on(weights, config, options, path);
  if (options.json) {
    fmt::print("{}\n", to_json(report, weights, options.tensors).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_text(report, weights, options.tensors);
  }
  return 0;
}

}  // namespace

void add_inspect_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("inspect", "what a model is, and what memory it needs");
  const auto options = std::make_shared<InspectOptions>();
  command->add_option("MODEL", options->model.model,
                      "model directory or GGUF file, or an adapter's directory; default: $QNEXT_MODEL or the bundled models/starter");
  command->add_option("--context", options->model.context, "plan memory for this many tokens; default: 4096")
      ->check(quiet(CLI::PositiveNumber))
      ->type_name("N");
  add_kv_option(*command, options->model);
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->add_flag("--json", options->json, "print one JSON object");
  command->footer(kFooter);
  command->callback([options, &action] { action = [options] { return inspect(*options); }; });
}

}  // namespace qnext::cli
