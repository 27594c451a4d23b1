#include "backend/lora_backend.h"

#include <algorithm>
#include <cmath>

namespace qnext {

void LoraBackend::linear(Rows x, std::span<const Linear> products) {
  inner().linear(x, products);
  for (size_t i = 0; i < products.size(); ++i) {
    const LowRank* l = products[i].weight->low_rank;
    if (l == nullptr) continue;
    const auto shares = [&](const Linear& p) {
      return p.weight->low_rank != nullptr && p.weight->low_rank->a.data == l->a.data;
    };
    if (std::ranges::any_of(products.first(i), shares)) continue;  // was done with the first of them
    const Rows a_x = rows_in(a_x_, x.rows, l->rank());
    inner().linear(x, l->a, a_x);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t r = 0; r < a_x.cols; ++r) a_x.row(t)[r] *= l->scale;
    }
    for (const Linear& p : products.subspan(i)) {
      if (!shares(p)) continue;
      const Rows y = p.y.first(x.rows), added = rows_in(added_, x.rows, y.cols);
      inner().linear(a_x, p.weight->low_rank->b, added);
      inner().add(y, added, y);
    }
  }
}

void LoraBackend::mlp(Rows x, const MlpWeights& w, Rows hidden, Rows y) {
  if (!w.has_low_rank()) return inner().mlp(x, w, hidden, y);
  const Rows gate = hidden.first(x.rows), up = rows_in(up_, x.rows, hidden.cols);
  const Linear first[] = {{&w.gate, gate}, {&w.up, up}};
  linear(x, first);
  for (int64_t t = 0; t < x.rows; ++t) {
    float *g = gate.row(t), *u = up.row(t);
    for (int64_t f = 0; f < gate.cols; ++f) g[f] = g[f] / (1.0f + std::exp(-g[f])) * u[f];
  }
  const Linear down{&w.down, y.first(x.rows)};
  linear(gate, {&down, 1});
}

void LoraBackend::experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                          const float* weights, Rows hidden, Rows expert_out, Rows y) {
  if (std::ranges::none_of(experts, &MlpWeights::has_low_rank)) {
    return inner().experts(x, experts, k, chosen, weights, hidden, expert_out, y);
  }
  std::vector<int32_t> entries, rows;
  for (size_t e = 0; e < experts.size(); ++e) {
    entries.clear();
    rows.clear();
    for (int64_t i = 0; i < x.rows * k; ++i) {
      if (chosen[i] != static_cast<int32_t>(e)) continue;
      entries.push_back(static_cast<int32_t>(i));
      rows.push_back(static_cast<int32_t>(i / k));
    }
    if (rows.empty()) continue;
    const auto count = static_cast<int64_t>(rows.size());
    const Rows in = rows_in(gathered_, count, x.cols), out = rows_in(out_, count, y.cols);
    inner().gather(x, rows, in);
    mlp(in, experts[e], rows_in(hidden_, count, experts[e].gate.rows), out);
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(out.row(i), y.cols, expert_out.row(entries[static_cast<size_t>(i)]));
  }
  for (int64_t t = 0; t < x.rows; ++t) {
    std::fill_n(y.row(t), y.cols, 0.0f);
    for (int64_t i = t * k; i < (t + 1) * k; ++i) {
      for (int64_t c = 0; c < y.cols; ++c) y.row(t)[c] += weights[i] * expert_out.row(i)[c];
    }
  }
}

}  // namespace qnext
