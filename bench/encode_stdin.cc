// encode_stdin TYPE COLS [IMPORTANCE_FILE] < rows of f32 > blocks: what bench/encoders.py drives. Prints the seconds
// of CPU that encoding took on stderr.
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <vector>

#include "quant/encode.h"

int main(int argc, char** argv) {
  const auto dtype = argc > 2 ? qnext::dtype_from_name(argv[1]) : std::nullopt;
  const int64_t cols = dtype ? std::atoll(argv[2]) : 0;
  if (cols <= 0 || cols % qnext::block_elements(*dtype) != 0) return 2;
  std::vector<float> importance(argc > 3 ? static_cast<size_t>(cols) : 0), row(static_cast<size_t>(cols));
  if (argc > 3) {
    std::ifstream(argv[3], std::ios::binary)
        .read(reinterpret_cast<char*>(importance.data()), cols * static_cast<int64_t>(sizeof(float)));
  }
  std::vector<std::byte> out(static_cast<size_t>(qnext::bytes_of(*dtype, cols)));
  std::clock_t clocks = 0;
  while (std::fread(row.data(), sizeof(float), row.size(), stdin) == row.size()) {
    const std::clock_t start = std::clock();
    qnext::encode(*dtype, row.data(), cols, importance.empty() ? nullptr : importance.data(), out.data());
    clocks += std::clock() - start;
    std::fwrite(out.data(), 1, out.size(), stdout);
  }
  std::fprintf(stderr, "%.6f\n", static_cast<double>(clocks) / CLOCKS_PER_SEC);
}
