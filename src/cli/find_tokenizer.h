#pragma once
#include <string>

#include "tokenizer/tokenizer.h"

namespace qnext::cli {

/// The tokenizer of find_model's model; `typed` may also be a directory that holds a tokenizer.json and no model.
Tokenizer find_tokenizer(const std::string& typed);

}  // namespace qnext::cli
