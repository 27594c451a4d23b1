#pragma once
#include <cstdint>

#include "backend/backend.h"

namespace qnext {

struct PointwiseGradientKernels {};

}  // namespace qnext
