// run.toml: what is accepted can be trained, as far as the file alone can tell.
#include "base/error.h"
#include "train/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const qnext::TrainConfig c = qnext::parse_train_config(text, "run.toml", "/nonexistent");
    QNEXT_CHECK(c.shape.hidden_size > 0 && c.shape.num_layers() > 0 && c.model.mtp_steps >= 0);
    QNEXT_CHECK(!c.data.train.empty() && !c.data.stages.empty() && c.data.stages.front().tokens_seen == 0);
    for (const auto& stage : c.data.stages) {
      QNEXT_CHECK(stage.sequence_length > 0 && c.data.batch_tokens % stage.sequence_length == 0);
      QNEXT_CHECK(&c.stage(stage.tokens_seen) == &stage);
    }
    QNEXT_CHECK(c.optimizer.learning_rate > 0 && c.optimizer.steps > 0 && c.checkpoint.every > 0);
  } catch (const qnext::Error&) {  // also of the files it names, which are absent
  }
  return 0;
}
