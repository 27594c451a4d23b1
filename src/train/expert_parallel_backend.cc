#include "train/expert_parallel_backend.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace qnext {

namespace {

int64_t total(std::span<const int64_t> counts) { return std::reduce(counts.begin(), counts.end()); }

std::span<float> floats(Rows x) { return {x.data, static_cast<size_t>(x.rows * x.cols)}; }

}  // namespace

ExpertParallelBackend::ExpertParallelBackend(TrainingBackend& inner, Communicator& communicator, int64_t experts)
    : ForwardingTrainingBackend(inner),
      communicator_(communicator),
      experts_per_rank_(experts / communicator.size()),
      rows_to_(static_cast<size_t>(communicator.size())),
      entries_to_(static_cast<size_t>(communicator.size())) {
  QNEXT_CHECK(experts_per_rank_ * communicator.size() == experts, "{} experts, {} ranks", experts, communicator.size());
}

/// Counts first, then which entries: afterwards each rank knows the size of all that it sends and gets.
void ExpertParallelBackend::make_plan(int64_t rows, int64_t k, const int32_t* chosen) {
  const auto ranks = rows_to_.size();
  for (size_t r = 0; r < ranks; ++r) {
    rows_to_[r].clear();
    entries_to_[r].clear();
  }
  plan_.place.resize(static_cast<size_t>(rows * k));
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = t * k; i < (t + 1) * k; ++i) {
      const auto rank = static_cast<size_t>(chosen[i] / experts_per_rank_);
      QNEXT_CHECK(chosen[i] >= 0 && rank < ranks, "expert {} of {} ranks with {}", chosen[i], ranks, experts_per_rank_);
      std::vector<int32_t>&list = rows_to_[rank], &entries = entries_to_[rank];
      if (list.empty() || list.back() != t) list.push_back(static_cast<int32_t>(t));
      plan_.place[static_cast<size_t>(i)] = static_cast<int32_t>(entries.size() / 2);  // among those to this rank
      entries.push_back(static_cast<int32_t>(list.size()) - 1);
      entries.push_back(static_cast<int32_t>(chosen[i] % experts_per_rank_));
    }
  }
  plan_.rows.clear();
  plan_.send_rows.clear();
  plan_.send_entries.clear();
  std::vector<int32_t> entries, counts, first(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    first[r] = static_cast<int32_t>(entries.size() / 2);
    plan_.rows.insert(plan_.rows.end(), rows_to_[r].begin(), rows_to_[r].end());
    entries.insert(entries.end(), entries_to_[r].begin(), entries_to_[r].end());
    plan_.send_rows.push_back(static_cast<int64_t>(rows_to_[r].size()));
    plan_.send_entries.push_back(static_cast<int64_t>(entries_to_[r].size() / 2));
    counts.insert(counts.end(), {static_cast<int32_t>(plan_.send_rows.back()), static_cast<int32_t>(plan_.send_entries.back())});
  }
  for (int64_t i = 0; i < rows * k; ++i) plan_.place[static_cast<size_t>(i)] += first[static_cast<size_t>(chosen[i] / experts_per_rank_)];

  const std::vector<int64_t> one_each(ranks, 1);
  std::vector<int32_t> theirs(counts.size());
  communicator_.all_to_all(std::span<const int32_t>(counts), one_each, std::span(theirs), one_each, 2);
  plan_.receive_rows.resize(ranks);
  plan_.receive_entries.resize(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    plan_.receive_rows[r] = theirs[2 * r];
    plan_.receive_entries[r] = theirs[2 * r + 1];
  }
  plan_.received_rows = total(plan_.receive_rows);
  std::vector<int32_t> received(static_cast<size_t>(2 * total(plan_.receive_entries)));
  communicator_.all_to_all(std::span<const int32_t>(entries), plan_.send_entries, std::span(received), plan_.receive_entries, 2);
  plan_.entry_rows.clear();
  plan_.entry_experts.clear();
  int64_t row = 0, entry = 0;
  for (size_t r = 0; r < ranks; ++r) {
    for (const int64_t end = entry + plan_.receive_entries[r]; entry < end; ++entry) {
      plan_.entry_rows.push_back(static_cast<int32_t>(row) + received[static_cast<size_t>(2 * entry)]);
      plan_.entry_experts.push_back(received[static_cast<size_t>(2 * entry + 1)]);
    }
    row += plan_.receive_rows[r];
  }
}

void ExpertParallelBackend::experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                                    const float* weights, Rows, Rows expert_out, Rows y) {
  make_plan(x.rows, k, chosen);
  const auto entries_here = static_cast<int64_t>(plan_.entry_rows.size());
  const Rows sent = rows_in(sent_, static_cast<int64_t>(plan_.rows.size()), x.cols);
  gather(x, plan_.rows, sent);
  const Rows received = rows_in(received_, plan_.received_rows, x.cols);
  communicator_.all_to_all(floats(sent), plan_.send_rows, floats(received), plan_.receive_rows, x.cols);

  const Rows results = rows_in(results_, entries_here, y.cols), returned = rows_in(returned_, x.rows * k, y.cols);
  expert_entries(received, experts, plan_.entry_rows, plan_.entry_experts, results);
  communicator_.all_to_all(floats(results), plan_.receive_entries, floats(returned), plan_.send_entries, y.cols);
  gather(returned, plan_.place, expert_out);
  combine_experts(expert_out, k, weights, y.first(x.rows));
}

void ExpertParallelBackend::experts_backward(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                                             const float* weights, Rows d_y, Rows d_x, float* d_weights,
                                             std::span<const MlpGradient> d_experts) {
  make_plan(x.rows, k, chosen);
  const int64_t entries = x.rows * k, entries_here = static_cast<int64_t>(plan_.entry_rows.size()), width = x.cols;
  // A row and the gradient of its output side by side. They are sent again rather than kept since the forward pass: the rows
  // that a layer gets would be several times as many as its own.
  const Rows sent = rows_in(sent_, static_cast<int64_t>(plan_.rows.size()), width + d_y.cols);
  gather(x, plan_.rows, sent.columns(0, width));
  gather(d_y, plan_.rows, sent.columns(width, d_y.cols));
  const Rows received = rows_in(received_, plan_.received_rows, sent.cols);
  communicator_.all_to_all(floats(sent), plan_.send_rows, floats(received), plan_.receive_rows, sent.cols);
  weights_.resize(static_cast<size_t>(entries + entries_here));
  d_weights_.resize(weights_.size());
  const std::span ours = std::span(weights_).first(static_cast<size_t>(entries)), theirs = std::span(weights_).subspan(ours.size());
  for (size_t i = 0; i < ours.size(); ++i) ours[static_cast<size_t>(plan_.place[i])] = weights[i];
  communicator_.all_to_all(ours, plan_.send_entries, theirs, plan_.receive_entries, 1);

  const std::span d_ours = std::span(d_weights_).first(ours.size()), d_theirs = std::span(d_weights_).subspan(ours.size());
  // Each is used twice: results here, then what was returned in the order of our entries.
  const Rows results = rows_in(results_, std::max(entries, entries_here), width);
  expert_entries_backward(received.columns(0, width), experts, plan_.entry_rows, plan_.entry_experts, theirs.data(),
                          received.columns(width, d_y.cols), results.first(entries_here), d_theirs.data(), d_experts);
  communicator_.all_to_all(d_theirs, plan_.receive_entries, d_ours, plan_.send_entries, 1);
  for (size_t i = 0; i < d_ours.size(); ++i) d_weights[i] = d_ours[static_cast<size_t>(plan_.place[i])];
  const Rows returned = rows_in(returned_, entries, width), parts = results.first(entries);
  communicator_.all_to_all(floats(results.first(entries_here)), plan_.receive_entries, floats(returned), plan_.send_entries, width);
  gather(returned, plan_.place, parts);
  if (x.rows == 0 || d_x.data == nullptr) return;
  for (int64_t slot = 0; slot < k; ++slot) {
    add(d_x, {parts.data + slot * width, x.rows, width, k * width}, d_x);
  }
}

}  // namespace qnext
