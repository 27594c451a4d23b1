#include "runtime/engine.h"

#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "backend/lora_backend.h"
#include "base/error.h"
#include "model/peft.h"
#include "runtime/model_files.h"

namespace qnext {

struct Engine::Impl {
  EngineOptions options;
  ModelConfig config;
  Weights weights;
  std::unique_ptr<LoraArray> lora;  ///< the weights point into it
  MemoryPlan plan;
  StateLayout layout;
  std::unique_ptr<Backend> backend;
  std::optional<Activations> act;
  int64_t last_rows = 0;
  // Kept to reuse their memory from step to step.
  std::vector<int32_t> tokens, logit_rows;
  std::vector<Segment> segments;

  void check_tokens(std::span<const int32_t> ids) const {
    for (int32_t id : ids) {
      if (id < 0 || id >= config.vocab_size) {
        throw Error(fmt::format("token id: expected 0 to {}, found {}", config.vocab_size - 1, id));
      }
    }
  }
  void check_room(const Sequence& sequence, int64_t tokens_to_add) const {
    if (!sequence.usable()) throw Error("sequence: an earlier step failed half-way; reset it before further use");
    if (sequence.length() + tokens_to_add > options.context) {
      throw Error(fmt::format("prompt: expected at most {} tokens of context, found {}", options.context,
                              sequence.length() + tokens_to_add));
    }
  }
};

Engine::Engine(const std::filesystem::path& model, const EngineOptions& options) : impl_(std::make_unique<Impl>()) {
  Impl& m = *impl_;
  m.options = options;
  const ModelFiles files(model);
  m.config = files.config();
  m.weights = bind_weights(m.config, files.checkpoint());
  EngineOptions& o = m.options;
  if (o.context <= 0) o.context = m.config.max_position_embeddings;
  if (o.context > m.config.max_position_embeddings) {
    throw Error(fmt::format("context: expected at most {} tokens (max_position_embeddings), found {}",
                            m.config.max_position_embeddings, o.context));
  }
  constexpr int kMaxThreads = 1024;
  if (o.threads == 0) o.threads = static_cast<int>(allowed_cpus().size());
  if (o.threads < 0 || o.threads > kMaxThreads) {
    throw Error(fmt::format("threads: expected 0 to {}, found {}", kMaxThreads, o.threads));
  }
  if (o.batch_rows < 0) throw Error(fmt::format("batch rows: expected at least 1, or 0, found {}", o.batch_rows));
  if (o.kv_dtype != DType::kF32 && o.kv_dtype != DType::kBF16 && o.kv_dtype != DType::kQ8_0) {
    throw Error(fmt::format("KV dtype: expected F32, BF16 or Q8_0, found {}", dtype_name(o.kv_dtype)));
  }
  if (o.mtp_if_present) o.mtp = m.weights.mtp.has_value();
  if (o.mtp && !m.weights.mtp) throw Error(fmt::format("{}: the model has no MTP module", model.string()));
  if (!o.isa) o.isa = chosen_isa();
  m.backend = make_cpu_backend(o.threads, *o.isa, o.activations);
  if (!o.lora.empty()) {
    m.lora = load_peft(o.lora, m.config, stored_parts(m.weights), *m.backend);
    m.lora->attach(m.weights);
    m.backend = std::make_unique<LoraBackend>(std::move(m.backend));
  }
  m.plan = plan_memory(m.config, m.weights, o);
  if (m.lora) m.plan.weights_owned += static_cast<int64_t>(m.lora->values().size_bytes());
  o.batch_rows = m.plan.batch_rows;
  require_fits(m.plan, o.memory_limit_bytes > 0 ? o.memory_limit_bytes : available_memory_bytes());
  m.layout = StateLayout(m.config, o.kv_dtype, o.mtp);
  if (o.wrap_backend) m.backend = o.wrap_backend(std::move(m.backend));
  m.act.emplace(m.config, o.batch_rows, *m.backend);
}

Engine::~Engine() = default;

const ModelConfig& Engine::config() const { return impl_->config; }
const Weights& Engine::weights() const { return impl_->weights; }
const MemoryPlan& Engine::plan() const { return impl_->plan; }
const StateLayout& Engine::layout() const { return impl_->layout; }
const EngineOptions& Engine::options() const { return impl_->options; }
std::string_view Engine::backend_name() const { return impl_->backend->name(); }

std::unique_ptr<Sequence> Engine::create_sequence() {
  return std::make_unique<Sequence>(*impl_->backend, impl_->layout);
}

namespace {
/// Marks the sequences unusable unless the step comes to its end: their states may have moved without their lengths.
class StepGuard {
 public:
  explicit StepGuard(std::span<const Feed> feeds) : feeds_(feeds) { set(false); }
  ~StepGuard() {
    if (done_) set(true);
  }
  void done() { done_ = true; }

 private:
  void set(bool usable) {
    for (const Feed& feed : feeds_) feed.sequence->set_usable(usable);
  }
  std::span<const Feed> feeds_;
  bool done_ = false;
};
}  // namespace

std::span<const float> Engine::step(std::span<const Feed> feeds) {
  Impl& m = *impl_;
  m.tokens.clear();
  m.segments.clear();
  m.logit_rows.clear();
  int64_t row = 0;
  for (const Feed& feed : feeds) {
    m.check_tokens(feed.tokens);
    const auto rows = static_cast<int64_t>(feed.tokens.size());
    m.check_room(*feed.sequence, rows);
    row += rows;
    if (std::count_if(feeds.begin(), feeds.end(), [&](const Feed& f) { return f.sequence == feed.sequence; }) > 1) {
      throw Error("step: expected each sequence at most once, found one more than once");
    }
  }
  if (row > m.options.batch_rows) {
    throw Error(fmt::format("step: expected at most {} rows (batch_rows), found {}", m.options.batch_rows, row));
  }
  row = 0;
  for (const Feed& feed : feeds) {
    const auto rows = static_cast<int64_t>(feed.tokens.size());
    if (rows == 0) continue;
    feed.sequence->reserve(rows);
    m.segments.push_back({row, rows, feed.sequence->length(), &feed.sequence->state()});
    m.tokens.insert(m.tokens.end(), feed.tokens.begin(), feed.tokens.end());
    const int64_t first = feed.logits == LogitRows::kAll ? row : feed.logits == LogitRows::kLast ? row + rows - 1 : row + rows;
    for (int64_t r = first; r < row + rows; ++r) m.logit_rows.push_back(static_cast<int32_t>(r));
    row += rows;
  }
  m.last_rows = row;
  if (row == 0) return {};
  StepGuard guard(feeds);
  const auto notify = [this](int64_t layer, Rows hidden) {
    // Observers get a dense copy; they are for tests and inspection.
    std::vector<float> dense(static_cast<size_t>(hidden.rows * hidden.cols));
    for (int64_t r = 0; r < hidden.rows; ++r) {
      std::copy_n(hidden.row(r), hidden.cols, dense.data() + r * hidden.cols);
    }
    observer(layer, dense);
  };
  forward(m.config, m.weights, m.layout, m.tokens, m.segments, m.logit_rows, *m.act, *m.backend,
          observer ? Observer(notify) : Observer());
  for (const Segment& s : m.segments) s.state->length += s.rows;
  guard.done();
  return dense(m.act->logits.first(static_cast<int64_t>(m.logit_rows.size())));
}

std::span<const float> Engine::dense(Rows rows) {
  QNEXT_CHECK(rows.rows == 0 || rows.stride >= rows.cols);
  if (rows.stride != rows.cols) {  // close the gaps in place, front to back
    for (int64_t r = 1; r < rows.rows; ++r) std::copy_n(rows.row(r), rows.cols, rows.data + r * rows.cols);
  }
  return {rows.data, static_cast<size_t>(rows.rows * rows.cols)};
}

Rows Engine::last_hidden() const { return impl_->act->hidden.first(impl_->last_rows); }

std::span<const float> Engine::mtp_step(Sequence& sequence, std::span<const int32_t> next_tokens, Rows hidden) {
  Impl& m = *impl_;
  const auto rows = static_cast<int64_t>(next_tokens.size());
  if (!m.options.mtp) throw Error("mtp_step: the engine was opened without mtp");
  m.check_tokens(next_tokens);
  if (!sequence.usable()) throw Error("sequence: an earlier step failed half-way; reset it before further use");
  if (rows > m.options.batch_rows || hidden.rows != rows || hidden.cols != m.config.hidden_size) {
    throw Error(fmt::format("mtp_step: expected as many hidden rows as tokens, at most {}, found {} and {}",
                            m.options.batch_rows, hidden.rows, rows));
  }
  SequenceState& state = sequence.state();
  if (state.mtp_length + rows > m.options.context) {
    throw Error(fmt::format("mtp_step: expected at most {} tokens of context, found {}", m.options.context,
                            state.mtp_length + rows));
  }
  if (rows == 0) return {};
  sequence.reserve(std::max<int64_t>(0, state.mtp_length + rows - state.length));
  const Segment segment{0, rows, state.mtp_length, &state};
  const Feed feed{&sequence, next_tokens};
  StepGuard guard({&feed, 1});
  forward_mtp(m.config, m.weights, m.layout, next_tokens, hidden, {&segment, 1}, *m.act, *m.backend);
  state.mtp_length += rows;
  m.last_rows = rows;
  guard.done();
  return dense(m.act->logits.first(rows));
}

void Engine::prefill(Sequence& sequence, std::span<const int32_t> tokens, LogitRows rows, int64_t chunk,
                     const std::function<void(int64_t first, std::span<const float> logits)>& on_logits,
                     const std::function<void(int64_t done)>& on_progress) {
  Impl& m = *impl_;
  // The whole prompt is judged before any of it is fed.
  m.check_tokens(tokens);
  m.check_room(sequence, static_cast<int64_t>(tokens.size()));
  int64_t most = chunk > 0 ? std::min(chunk, m.options.batch_rows) : m.options.batch_rows;
  if (chunk <= 0 && rows == LogitRows::kAll) {
    constexpr int64_t kMostLogits = (256 << 20) / sizeof(float);
    most = std::min(most, std::max(kBlockTokens, kMostLogits / m.config.vocab_size / kBlockTokens * kBlockTokens));
  }
  const auto total = static_cast<int64_t>(tokens.size());
  for (int64_t done = 0; done < total;) {
    // By default pieces end at multiples of batch_rows, so that where a prompt is resumed does not shift the later cuts.
    const int64_t piece = std::min(total - done, chunk > 0 ? most : most - sequence.length() % most);
    const bool last = done + piece == total;
    const LogitRows wanted = rows == LogitRows::kLast && !last ? LogitRows::kNone : rows;
    const Feed feed{&sequence, tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(piece)), wanted};
    const std::span<const float> logits = step({&feed, 1});
    if (on_logits) on_logits(done, logits);
    done += piece;
    if (on_progress) on_progress(done);
  }
}

}  // namespace qnext
