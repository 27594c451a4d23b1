#!/usr/bin/env python3
"""Errors and speed of the encoders of block types beside llama.cpp's: the tables of docs/quantisation.md.

  bench/encoders.py build/release/bench/qnext_encode_stdin DIRECTORY_OF_LIBGGML [TYPE...]

The libraries: bench/peers/install.sh. Needs numpy and gguf. All in one thread, CPU seconds."""
import ctypes
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf
import numpy

TYPES = "Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4 Q3_K Q2_K".split()
ROWS, COLS = 64, 2048


def ours(program, kind, x, importance):
    command = [program, kind.name, str(COLS)]
    with tempfile.NamedTemporaryFile() as file:
        if importance is not None:
            file.write(importance.tobytes())
            file.flush()
            command.append(file.name)
        result = subprocess.run(command, input=x.tobytes(), capture_output=True, check=True)
    return numpy.frombuffer(result.stdout, numpy.uint8), float(result.stderr)


def llama(library, kind, x, importance):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    out = numpy.zeros(x.size // elements * size, numpy.uint8)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p) if a is not None else None
    start = time.thread_time()
    library.ggml_quantize_chunk(int(kind), pointer(x), pointer(out), ctypes.c_int64(0), ctypes.c_int64(ROWS),
                                ctypes.c_int64(COLS), pointer(importance))
    return out, time.thread_time() - start


def error(kind, x, blocks, importance):
    decoded = gguf.quants.dequantize(blocks.reshape(ROWS, -1), kind).astype(numpy.float64)
    weights = 1 if importance is None else importance
    return numpy.sqrt((weights * (x - decoded) ** 2).sum() / (weights * x.astype(numpy.float64) ** 2).sum())


def main():
    program, libraries, *types = sys.argv[1:]
    library = ctypes.CDLL(str(pathlib.Path(libraries) / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    random = numpy.random.default_rng(1)
    data = {"normal": random.standard_normal((ROWS, COLS)) * 0.02, "t4": random.standard_t(4, (ROWS, COLS)) * 0.02}
    importance = numpy.exp(random.standard_normal(COLS) * 1.5).astype(numpy.float32)
    print(f"{'type':7} {'data':7} importance | error, plain rounding, llama.cpp | M weights/s, llama.cpp")
    for name in types or TYPES:
        kind = gguf.GGMLQuantizationType[name]
        for label, x in data.items():
            x = x.astype(numpy.float32)
            for weights in (None, importance):
                (a, a_time), (b, b_time) = ours(program, kind, x, weights), llama(library, kind, x, weights)
                try:
                    plain = f"{error(kind, x, gguf.quants.quantize(x, kind), weights):.5f}"
                except NotImplementedError:
                    plain = "      -"
                print(f"{name:7} {label:7} {'no' if weights is None else 'yes':10} | {error(kind, x, a, weights):.5f} {plain} "
                      f"{error(kind, x, b, weights):.5f} | {x.size / a_time / 1e6:.1f} {x.size / b_time / 1e6:.1f}")


if __name__ == "__main__":
    main()
