#include "convert/synth_blocks.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/philox.h"
#include "tensor/blocks.h"

namespace qnext {

namespace {

using Kind = RandomTensor::Kind;

/// Random words of a stream, four per counter.
class Words {
 public:
  Words(uint64_t stream, uint64_t counter) : key_{static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                                              counter_(counter) {}
  void fill(std::byte* out, int64_t bytes) {  // a multiple of 16 but for the last call
    while (bytes > 0) {
      const auto words = philox4x32({static_cast<uint32_t>(counter_), static_cast<uint32_t>(counter_ >> 32), 1, 0}, key_);
      ++counter_;
      const int64_t part = std::min<int64_t>(bytes, sizeof(words));
      std::memcpy(out, words.data(), static_cast<size_t>(part));
      out += part;
      bytes -= part;
    }
  }

 private:
  std::array<uint32_t, 2> key_;
  uint64_t counter_;
};

float value(Kind kind, double scale, double mean, uint32_t bits) {
  const double unit = bits * 0x1p-32;  // [0, 1)
  switch (kind) {
    case Kind::kALog: return static_cast<float>(std::log(1 + 15 * unit));
    case Kind::kSsmA: return static_cast<float>(-(1 + 15 * unit));
    case Kind::kTimeStep: {
      const double step = std::exp(std::log(0.001) + unit * std::log(100.0));
      return static_cast<float>(step + std::log(-std::expm1(-step)));
    }
    case Kind::kUniform: break;
  }
  return static_cast<float>(mean + scale * std::sqrt(12.0) * (unit - 0.5));
}

/// Deviation of the integers that a scale of block type `dtype` multiplies, when all bits are random.
double spread(DType dtype) {
  const auto uniform = [](double n) { return std::sqrt((n * n - 1) / 12); };  // of n consecutive integers
  const auto table = [](const int8_t (&values)[16]) {
    double sum = 0;
    for (const int8_t x : values) sum += x * x;
    return std::sqrt(sum / 16);
  };
  // K types: times that of the sub-block scales, which fix_block() keeps within [half, full] or leaves random.
  const auto scales = [](double low, double high) { return std::sqrt((low * low + low * high + high * high) / 3); };
  switch (dtype) {
    case DType::kQ8_0: return uniform(256);
    case DType::kQ4_0: case DType::kQ4_1: return uniform(16);
    case DType::kQ5_0: case DType::kQ5_1: return uniform(32);
    case DType::kIQ4_NL: return table(kIq4Values);
    case DType::kMXFP4: return table(kMxfp4Values);
    case DType::kQ2_K: return uniform(4) * scales(8, 15);
    case DType::kQ3_K: return uniform(8) * uniform(64);
    case DType::kQ4_K: return uniform(16) * scales(32, 63);
    case DType::kQ5_K: return uniform(32) * scales(32, 63);
    case DType::kQ6_K: return uniform(64) * uniform(256);
    case DType::kIQ4_XS: return table(kIq4Values) * uniform(64);
    default: QNEXT_CHECK(false, "{} is no block type", dtype_name(dtype));
  }
}

/// Q4_K and Q5_K: every scale in [32, 63], and each minimum equal to its scale.
void fix_k4_scales(uint8_t* scales) {
  for (int s = 0; s < 4; ++s) {
    const int low = (scales[s] & 31) | 32, high = (scales[s + 4] & 31) | 32;  // of sub-blocks s and s + 4
    scales[s] = static_cast<uint8_t>(low | (high >> 4 << 6));
    scales[s + 4] = scales[s];
    scales[s + 8] = static_cast<uint8_t>((high & 15) * 17);
  }
}

/// The scales of the formats that are not just bits: d of half precision, positive or (where the quantised values are not
/// symmetric around zero, so that a sign left to chance centres them) of the sign of a random bit.
struct BlockScales {
  uint16_t plus, minus;  ///< d
  uint16_t min;          ///< dmin or m, such that the values are symmetric
  uint8_t exponent;      ///< MXFP4
};

BlockScales block_scales(DType dtype, double deviation) {
  const double d = deviation / spread(dtype);
  BlockScales s{f32_to_f16(static_cast<float>(d)), f32_to_f16(static_cast<float>(-d)), 0, 0};
  const double offset = dtype == DType::kQ4_1 ? -7.5 : dtype == DType::kQ5_1 ? -15.5 : dtype == DType::kQ2_K ? 1.5
                        : dtype == DType::kQ4_K ? 7.5 : dtype == DType::kQ5_K ? 15.5 : 0;
  s.min = f32_to_f16(static_cast<float>(d * offset));
  s.exponent = static_cast<uint8_t>(128 + std::lround(std::log2(d)));
  return s;
}

template <typename Block, typename F>
void for_blocks(std::byte* data, int64_t blocks, F&& f) {
  for (int64_t i = 0; i < blocks; ++i) {
    Block block;  // blocks lie at any address
    std::memcpy(&block, data + i * static_cast<int64_t>(sizeof(Block)), sizeof(Block));
    f(block);
    std::memcpy(data + i * static_cast<int64_t>(sizeof(Block)), &block, sizeof(Block));
  }
}

void fix_blocks(DType dtype, double deviation, std::byte* data, int64_t blocks) {
  const BlockScales s = block_scales(dtype, deviation);
  const auto either = [&](uint16_t& d) { d = d & 1 ? s.plus : s.minus; };
  const auto with_d = [&](auto& b) { either(b.d); };
  const auto with_m = [&](auto& b) { b.d = s.plus, b.m = s.min; };
  const auto with_k4 = [&](auto& b) { b.d = s.plus, b.dmin = s.min, fix_k4_scales(b.scales); };
  switch (dtype) {
    case DType::kQ8_0: return for_blocks<BlockQ8_0>(data, blocks, with_d);
    case DType::kQ4_0: return for_blocks<BlockQ4_0>(data, blocks, with_d);
    case DType::kQ4_1: return for_blocks<BlockQ4_1>(data, blocks, with_m);
    case DType::kQ5_0: return for_blocks<BlockQ5_0>(data, blocks, with_d);
    case DType::kQ5_1: return for_blocks<BlockQ5_1>(data, blocks, with_m);
    case DType::kIQ4_NL: return for_blocks<BlockIQ4_NL>(data, blocks, with_d);
    case DType::kMXFP4: return for_blocks<BlockMXFP4>(data, blocks, [&](auto& b) { b.e = s.exponent; });
    case DType::kQ2_K:
      return for_blocks<BlockQ2_K>(data, blocks, [&](auto& b) {
        b.d = s.plus, b.dmin = s.min;
        for (uint8_t& scale : b.scales) scale = static_cast<uint8_t>(((scale & 7) | 8) * 17);
      });
    case DType::kQ3_K: return for_blocks<BlockQ3_K>(data, blocks, with_d);
    case DType::kQ4_K: return for_blocks<BlockQ4_K>(data, blocks, with_k4);
    case DType::kQ5_K: return for_blocks<BlockQ5_K>(data, blocks, with_k4);
    case DType::kQ6_K: return for_blocks<BlockQ6_K>(data, blocks, with_d);
    case DType::kIQ4_XS: return for_blocks<BlockIQ4_XS>(data, blocks, with_d);
    default: QNEXT_CHECK(false, "{} is no block type", dtype_name(dtype));
  }
}

}  // namespace

void fill_random(const RandomTensor& tensor, int64_t begin, int64_t count, std::span<std::byte> out) {
  const DType dtype = tensor.dtype;
  const int64_t bytes = bytes_of(dtype, count);
  QNEXT_CHECK(begin % kRandomUnit == 0 && begin + count <= tensor.elements && static_cast<int64_t>(out.size()) == bytes,
              "elements {} to {} of {} into {} bytes", begin, begin + count, tensor.elements, out.size());
  if (is_block_type(dtype)) {
    QNEXT_CHECK(tensor.kind == Kind::kUniform && tensor.mean == 0);
    Words(tensor.stream, static_cast<uint64_t>(bytes_of(dtype, begin) / 16)).fill(out.data(), bytes);
    fix_blocks(dtype, tensor.scale, out.data(), count / block_elements(dtype));
    return;
  }
  // 16 random bits for an element of the 16-bit types, 32 for the others.
  const bool narrow = dtype_size(dtype) == 2 && tensor.kind == Kind::kUniform;
  Words words(tensor.stream, static_cast<uint64_t>(begin / (narrow ? 8 : 4)));
  if (narrow) {
    const auto step = static_cast<float>(tensor.scale * std::sqrt(12.0) * 0x1p-16);
    const auto mean = static_cast<float>(tensor.mean);
    words.fill(out.data(), bytes);
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits;
      std::memcpy(&bits, out.data() + 2 * i, 2);
      const float x = mean + step * (static_cast<float>(static_cast<int16_t>(bits)) + 0.5f);
      bits = dtype == DType::kBF16 ? f32_to_bf16(x) : f32_to_f16(x);
      std::memcpy(out.data() + 2 * i, &bits, 2);
    }
    return;
  }
  for (int64_t i = 0; i < count; i += 4) {
    uint32_t bits[4];
    words.fill(reinterpret_cast<std::byte*>(bits), sizeof(bits));
    for (int64_t k = 0; k < std::min<int64_t>(4, count - i); ++k) {
      const float x = value(tensor.kind, tensor.scale, tensor.mean, bits[k]);
      std::byte* to = out.data() + (i + k) * dtype_size(dtype);
      if (dtype == DType::kF32) {
        std::memcpy(to, &x, 4);
      } else {
        const uint16_t half = dtype == DType::kBF16 ? f32_to_bf16(x) : f32_to_f16(x);
        std::memcpy(to, &half, 2);
      }
    }
  }
}

}  // namespace qnext
