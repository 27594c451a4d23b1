#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "train/config.h"

namespace qnext {

/// What the learning rates are multiplied by in step `step`, from 1 to o.steps.
inline double schedule_factor(const TrainConfig::Optimizer& o, int64_t step) {
  if (step <= o.warmup_steps) return static_cast<double>(step) / static_cast<double>(o.warmup_steps);
  const auto line = [&](double share) { return 1.0 + (o.final_fraction - 1.0) * std::clamp(share, 0.0, 1.0); };
  const double done = static_cast<double>(step - o.warmup_steps);
  const double steps = static_cast<double>(std::max<int64_t>(1, o.steps - o.warmup_steps));
  switch (o.schedule) {
    case ScheduleKind::kConstant: return 1.0;
    case ScheduleKind::kCosine: {
      const double share = std::min(1.0, done / steps);
      return o.final_fraction + (1.0 - o.final_fraction) * 0.5 * (1.0 + std::cos(std::numbers::pi * share));
    }
    case ScheduleKind::kWsd: {
      const double decay = o.decay_fraction * static_cast<double>(o.steps);
      const double left = static_cast<double>(o.steps - step);
      return decay > 0 ? line((decay - left) / decay) : 1.0;
    }
  }
  return 1.0;
}

}  // namespace qnext
