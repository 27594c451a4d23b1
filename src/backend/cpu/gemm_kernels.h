#pragma once
#include <cstdint>

#include "backend/backend.h"

namespace qnext {

struct GemmKernels {};

}  // namespace qnext
