#pragma once
#include <string>

namespace qnext {

/// What a model in training wrote, for people to see how far it is.
struct SampleText {
  std::string prompt;  ///< what it was given
  std::string text;    ///< what it went on with
};

}  // namespace qnext
