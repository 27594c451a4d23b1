// Included inside a target region, after lanes.h. Deliberately without an include guard.
//
// The searches. Values x[0..n) with weights w are to become s * g(q) or s * q + b, so that the error sum w (x - x')²
// is small. For given numbers s (and b) the best q is the nearest one; for given q the best s (and b) solve weighted
// least squares. The error over s is a piecewise parabola with many local minima, so the searches try a range of s,
// eight at a time, rank them by the error after the least-squares step, and go on from the best.

/// Whole numbers lo..hi.
struct UniformGrid {
  Lanes lo, hi;
  UniformGrid(int low, int high)
      : lo(Lanes::set(static_cast<float>(low))), hi(Lanes::set(static_cast<float>(high))) {}
  Lanes nearest(Lanes y) const {
    const Lanes magic = Lanes::set(12582912.0f);  // 1.5 * 2^23: the sum's last bit is worth 1
    return Lanes::max(Lanes::min(y, hi), lo) + magic - magic;
  }
};

/// The values of a table, ascending.
struct TableGrid {
  Lanes first, middle[15], step[15];
  int count;
  explicit TableGrid(const int8_t* values, int size) : first(Lanes::set(values[0])), count(size - 1) {
    for (int i = 0; i < count; ++i) {
      middle[i] = Lanes::set(0.5f * static_cast<float>(values[i] + values[i + 1]));
      step[i] = Lanes::set(static_cast<float>(values[i + 1] - values[i]));
    }
  }
  Lanes nearest(Lanes y) const {
    Lanes value = first;
    for (int i = 0; i < count; ++i) value = value + Lanes::where_greater(y, middle[i], step[i]);
    return value;
  }
};

/// Of eight scales: the error, and the sums of the least-squares step that would follow: s + gradient / curvature.
struct ScaleTrial {
  float error[8], gradient[8], curvature[8];
};

template <typename Grid>
void try_scales(const float* x, const float* w, int n, const float* scales, const Grid& grid, ScaleTrial& out) {
  const Lanes s = Lanes::load(scales), inverse = Lanes::set(1.0f) / s;
  Lanes error = Lanes::set(0), gradient = error, curvature = error;
  for (int i = 0; i < n; ++i) {
    const Lanes xi = Lanes::set(x[i]), wi = Lanes::set(w[i]);
    const Lanes value = grid.nearest(xi * inverse);
    const Lanes rest = xi - s * value, weighted = wi * rest;
    error = error + weighted * rest;
    gradient = gradient + weighted * value;
    curvature = curvature + wi * value * value;
  }
  error.store(out.error);
  gradient.store(out.gradient);
  curvature.store(out.curvature);
}

struct Scale {
  float s = 0, error = 0, curvature = 0;
};

/// s = peak / t for `count` (a multiple of 8) values of t from t_low to t_high, and with both signs if asked; then
/// two finer rounds about the best.
template <typename Grid>
Scale search_scale(const float* x, const float* w, int n, const Grid& grid, float t_low, float t_high, int count,
                   bool both_signs) {
  float peak = 0;
  for (int i = 0; i < n; ++i) peak = std::fabs(x[i]) > peak ? std::fabs(x[i]) : peak;
  Scale best;
  if (peak < 1e-30f) {
    for (int i = 0; i < n; ++i) best.error += w[i] * x[i] * x[i];
    return best;
  }
  bool found = false;
  ScaleTrial trial;
  float scales[8];
  const auto take_best = [&] {
    for (int k = 0; k < 8; ++k) {
      const float g = trial.gradient[k], h = trial.curvature[k];
      const float step = h > 0 ? g / h : 0.0f, error = trial.error[k] - g * step;
      if (!found || error < best.error) best = {scales[k] + step, error, h};
      found = true;
    }
  };
  const float spacing = (t_high - t_low) / static_cast<float>(count);
  for (int sign = 0; sign < (both_signs ? 2 : 1); ++sign) {
    for (int begin = 0; begin < count; begin += 8) {
      for (int k = 0; k < 8; ++k) {
        scales[k] = (sign == 0 ? peak : -peak) / (t_low + spacing * (static_cast<float>(begin + k) + 0.5f));
      }
      try_scales(x, w, n, scales, grid, trial);
      take_best();
    }
  }
  float width = 2 * spacing / (t_low + t_high);  // relative distance of neighbours
  for (int round = 0; round < 2; ++round) {
    width *= 0.25f;
    const float centre = best.s;
    for (int k = 0; k < 8; ++k) scales[k] = centre * (1 + width * static_cast<float>(k - 4));
    try_scales(x, w, n, scales, grid, trial);
    take_best();
  }
  return best;
}

/// Of eight pairs (s, b): the error of s q + b, q in 0..top, and the sums of the least-squares step.
struct AffineTrial {
  float error[8], wrq[8], wr[8], wqq[8], wq[8];
};

inline void try_affine(const float* x, const float* w, int n, const float* scales, const float* offsets, float top,
                       AffineTrial& out) {
  const Lanes s = Lanes::load(scales), b = Lanes::load(offsets), inverse = Lanes::set(1.0f) / s;
  const Lanes zero = Lanes::set(0), hi = Lanes::set(top), magic = Lanes::set(12582912.0f);
  Lanes error = zero, wrq = zero, wr = zero, wqq = zero, wq = zero;
  for (int i = 0; i < n; ++i) {
    const Lanes xi = Lanes::set(x[i]), wi = Lanes::set(w[i]);
    const Lanes q = Lanes::max(Lanes::min((xi - b) * inverse, hi), zero) + magic - magic;
    const Lanes rest = xi - (s * q + b), weighted = wi * rest, weighted_q = wi * q;
    error = error + weighted * rest;
    wr = wr + weighted;
    wrq = wrq + weighted * q;
    wq = wq + weighted_q;
    wqq = wqq + weighted_q * q;
  }
  error.store(out.error);
  wrq.store(out.wrq);
  wr.store(out.wr);
  wqq.store(out.wqq);
  wq.store(out.wq);
}

struct Affine {
  float s = 0, b = 0, error = 0;
  float scale_weight = 0;  ///< curvature of the error over s when b follows it
};

/// The least-squares step from candidate k of a trial. With `negative` b stays <= 0. sum_w is the sum of the weights.
inline Affine affine_step(const AffineTrial& t, int k, float s, float b, float sum_w, bool negative) {
  const float det = t.wqq[k] * sum_w - t.wq[k] * t.wq[k];
  Affine to{s, b, t.error[k], det / sum_w};
  if (det > 1e-6f * t.wqq[k] * sum_w) {
    const float ds = (t.wrq[k] * sum_w - t.wr[k] * t.wq[k]) / det;
    const float db = (t.wr[k] * t.wqq[k] - t.wrq[k] * t.wq[k]) / det;
    if (!negative || b + db <= 0) {
      return {s + ds, b + db, t.error[k] - ds * t.wrq[k] - db * t.wr[k], det / sum_w};
    }
  }
  if (negative && t.wqq[k] > 0) {  // on the edge b = 0: the error there, as a quadratic in (ds, db)
    const float db = -b, ds = (t.wrq[k] - db * t.wq[k]) / t.wqq[k];
    const float error = t.error[k] - 2 * (ds * t.wrq[k] + db * t.wr[k]) + ds * ds * t.wqq[k] + 2 * ds * db * t.wq[k] +
                        db * db * sum_w;
    if (error < to.error && s + ds > 0) return {s + ds, 0, error, t.wqq[k]};
  }
  return to;
}

/// Tries ranges [low, high] cut at both ends by up to `cut` of the spread (and widened by half a step), 8 x `cuts`,
/// then finer rounds about the best.
inline Affine search_affine(const float* x, const float* w, int n, float top, float cut, int cuts, bool negative) {
  float low = x[0], high = x[0], sum_w = 0;
  for (int i = 0; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    sum_w += w[i];
  }
  if (negative) low = low > 0 ? 0 : low;
  const float spread = high - low;
  Affine best;
  if (spread < 1e-30f) {  // constant, or (with `negative`) without positive values but b
    best.b = low;
    for (int i = 0; i < n; ++i) best.error += w[i] * (x[i] - low) * (x[i] - low);
    return best;
  }
  bool found = false;
  AffineTrial trial;
  float scales[8], offsets[8];
  const auto take_best = [&] {
    try_affine(x, w, n, scales, offsets, top, trial);
    for (int k = 0; k < 8; ++k) {
      const Affine to = affine_step(trial, k, scales[k], offsets[k], sum_w, negative);
      if (!found || to.error < best.error) best = to;
      found = true;
    }
  };
  const float wide = 0.5f / top;
  for (int i = 0; i < cuts; ++i) {
    const float cut_low = (cut + wide) * static_cast<float>(i) / static_cast<float>(cuts - 1) - wide;
    for (int k = 0; k < 8; ++k) {
      const float cut_high = (cut + wide) * static_cast<float>(k) / 7 - wide;
      const float b = low + cut_low * spread;
      offsets[k] = negative && b > 0 ? 0 : b;
      scales[k] = (high - cut_high * spread - offsets[k]) / top;
    }
    take_best();
  }
  static constexpr float kAround[8][2] = {{0, 0}, {1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, -1}, {-1, 1}, {0.5f, 0.5f}};
  float width = 0.25f;
  for (int round = 0; round < 3; ++round) {
    const Affine centre = best;
    for (int k = 0; k < 8; ++k) {
      scales[k] = centre.s * (1 + kAround[k][0] * width * 2 / top);
      const float b = centre.b + kAround[k][1] * width * centre.s;
      offsets[k] = negative && b > 0 ? 0 : b;
    }
    take_best();
    width *= 0.5f;
  }
  return best;
}
