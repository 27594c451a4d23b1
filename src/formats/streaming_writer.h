#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"

namespace qnext {

/// Where a tensor's bytes lie in a file being written.
struct TensorExtent {
  std::string name;  ///< for messages
  uint64_t offset = 0, size = 0;
};

/// What both formats share: a file of file_size bytes that begins with `header`, whose tensors are appended in the
/// order of `extents`, wherever those lie; what no tensor covers is zero. Disk space is reserved at once where the
/// file system can do that, so a full disk shows before the work. See TensorFileWriter for the rest of the contract.
std::unique_ptr<TensorFileWriter> make_streaming_writer(const std::filesystem::path& path, std::string_view header,
                                                        std::vector<TensorExtent> extents, uint64_t file_size);

}  // namespace qnext
