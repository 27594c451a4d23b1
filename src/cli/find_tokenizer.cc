#include "cli/find_tokenizer.h"

#include <filesystem>

#include "cli/model_options.h"
#include "runtime/model_files.h"

namespace qnext::cli {

Tokenizer find_tokenizer(const std::string& typed) {
  std::error_code ignored;
  if (!typed.empty() && std::filesystem::exists(std::filesystem::path(typed) / "tokenizer.json", ignored)) {
    return Tokenizer::load(typed);
  }
  return ModelFiles(find_model(typed)).tokenizer();
}

}  // namespace qnext::cli
