// The ends of training: the embedding's gradient, the loss, the optimiser.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::embed_backward(std::span<const int32_t> tokens, Rows d_out, float* d_table) {
  QNEXT_CHECK(static_cast<int64_t>(tokens.size()) == d_out.rows, "{} tokens, {} rows", tokens.size(), d_out.rows);
  // Threads share out the columns, so that equal tokens meet in row order.
  const int64_t step = std::max<int64_t>(64, (d_out.cols / (4 * pool_.size()) + 15) / 16 * 16);
  pool_.parallel_for((d_out.cols + step - 1) / step, [&](int64_t task, int) {
    const int64_t begin = task * step, count = std::min(step, d_out.cols - begin);
    for (int64_t t = 0; t < d_out.rows; ++t) {
      k_.gemm.add(d_table + tokens[static_cast<size_t>(t)] * d_out.cols + begin, d_out.row(t) + begin, count);
    }
  });
}

CpuTrainingBackend::CrossEntropy CpuTrainingBackend::cross_entropy(Rows x, const Matrix& head,
                                                                   std::span<const int32_t> targets, float scale,
                                                                   Rows d_x, float* d_head,
                                                                   std::span<int32_t> predictions) {
  const bool with_d_x = d_x.data != nullptr, gradients = with_d_x || d_head != nullptr;
  const int64_t vocabulary = head.rows;
  QNEXT_CHECK(head.cols == x.cols && static_cast<int64_t>(targets.size()) == x.rows &&
                  (predictions.empty() || predictions.size() == targets.size()) &&
                  (!with_d_x || (d_x.rows == x.rows && d_x.cols == x.cols)),
              "x [{}, {}], head [{}, {}], {} targets, {} predictions, d_x [{}, {}]", x.rows, x.cols, head.rows,
              head.cols, targets.size(), predictions.size(), d_x.rows, d_x.cols);
  CrossEntropy result;
  std::vector<int32_t> rows;  // with a target
  for (int64_t t = 0; t < x.rows; ++t) {
    const int32_t target = targets[static_cast<size_t>(t)];
    QNEXT_CHECK(target >= -1 && target < vocabulary, "target {} of {}", target, vocabulary);
    if (target >= 0) {
      rows.push_back(static_cast<int32_t>(t));
      continue;
    }
    if (with_d_x) std::fill_n(d_x.row(t), d_x.cols, 0.0f);
    if (!predictions.empty()) predictions[static_cast<size_t>(t)] = -1;
  }
  result.targets = static_cast<int64_t>(rows.size());
  // Many rows pay for packing the head; the logits of a block should not outgrow 64 MiB.
  const int64_t most = std::clamp<int64_t>((16 << 20) / std::max<int64_t>(1, vocabulary), 64, 256);
  std::vector<double> losses;
  const auto do_block = [&](std::span<const int32_t> block) {
    const auto count = static_cast<int64_t>(block.size());
    const Rows logits{shared_scratch_.floats(count * vocabulary), count, vocabulary, vocabulary};
    const GemmTerm forward{{.data = x.data, .stride = x.stride, .index = block.data()}, {.matrix = &head}, x.cols};
    const GemmJob forward_job{
        .terms = {&forward, 1}, .c = logits.data, .ldc = vocabulary, .m = count, .n = vocabulary};
    gemm({&forward_job, 1});

    losses.assign(block.size(), 0.0);
    pool_.parallel_for(count, [&](int64_t i, int) {
      const auto t = static_cast<size_t>(block[static_cast<size_t>(i)]);
      float* const row = logits.row(i);
      const float most_likely = k_.gemm.maximum(row, vocabulary);
      if (!predictions.empty()) {
        const float* found = std::find(row, row + vocabulary, most_likely);
        predictions[t] = static_cast<int32_t>(found == row + vocabulary ? 0 : found - row);  // a NaN equals nothing
      }
      const int32_t target = targets[t];
      const double logit = row[target], sum = k_.gemm.exp_sum(row, most_likely, vocabulary);
      losses[static_cast<size_t>(i)] = static_cast<double>(most_likely) + std::log(sum) - logit;
      if (!gradients) return;
      k_.gemm.scale(row, static_cast<float>(static_cast<double>(scale) / sum), vocabulary);
      row[target] -= scale;
    });
    for (const double loss : losses) result.loss += loss;
    if (!gradients) return;

    const GemmTerm through{
        {.data = logits.data, .stride = vocabulary}, {.matrix = &head, .inner_lines = true}, vocabulary};
    const GemmTerm of_head{{.data = logits.data, .stride = vocabulary, .inner_lines = true},
                           {.data = x.data, .stride = x.stride, .index = block.data(), .inner_lines = true},
                           count};
    std::vector<GemmJob> jobs;
    if (d_head != nullptr) {
      jobs.push_back(
          {.terms = {&of_head, 1}, .c = d_head, .ldc = x.cols, .m = vocabulary, .n = x.cols, .accumulate = true});
    }
    if (with_d_x) {
      jobs.push_back({.terms = {&through, 1},
                      .c = d_x.data,
                      .ldc = d_x.stride,
                      .c_index = block.data(),
                      .m = count,
                      .n = x.cols});
    }
    gemm(jobs);
  };
  for (std::span<const int32_t> rest = rows; !rest.empty();) {
    const auto block = rest.first(std::min(rest.size(), static_cast<size_t>(most)));
    do_block(block);
    rest = rest.subspan(block.size());
  }
  return result;
}

}  // namespace qnext
