#!/usr/bin/env python3
"""Random blocks of every quantised type, and what the gguf package decodes them to.

TYPE.bin holds N random blocks, then their N * elements decoded values in f32, all little endian. Every bit of a block
is random, but scales are finite. Run with gguf==0.19.0 and numpy: make_blocks.py (it writes beside itself).
"""
import pathlib

import gguf
import numpy

# Byte offsets of the half-precision numbers of each type, and its blocks in the file.
TYPES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0], "MXFP4": [],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0],
}


def main():
    generator = numpy.random.default_rng(20250911)
    for name, halves in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = 1024 // elements
        blocks = generator.integers(0, 256, (count, size), dtype=numpy.uint8)
        for offset in halves:
            half = blocks[:, offset : offset + 2].copy().view("<u2")
            half[(half & 0x7C00) == 0x7C00] ^= 0x4000
            half[0] = half[0] & 0x83FF  # a subnormal scale
            blocks[:, offset : offset + 2] = half.view(numpy.uint8)
        if name == "MXFP4":
            blocks[:3, 0] = [0, 1, 2]
            blocks[3:, 0] %= 200
        values = gguf.quants.dequantize(blocks, kind).astype("<f4").reshape(-1)
        assert values.size == count * elements and numpy.isfinite(values).all()
        path = pathlib.Path(__file__).parent / f"{name}.bin"
        path.write_bytes(blocks.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
