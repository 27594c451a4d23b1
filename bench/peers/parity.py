#!/usr/bin/env python3
"""Logits of the same GGUF from qnext and from llama.cpp: relative RMS difference and how often the likeliest token agrees.

    parity.py MODEL.gguf [--tokens 64] [--isa avx512]

Both round activations before they meet weights of block types, in different ways (llama.cpp to blocks of 32 or 256 with its own
scales, qnext as docs/numerics.md says), so the figure to compare with is llama.cpp's difference from itself with other
kernels (extra buffers off, another instruction set), which is printed beside it.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy
import safetensors.numpy

import llama_cpp

ROOT = pathlib.Path(__file__).resolve().parents[2]


def difference(a, b):
    rms = numpy.sqrt(numpy.mean((a - b) ** 2, dtype=numpy.float64) / numpy.mean(b ** 2, dtype=numpy.float64))
    return f"relative RMS {rms:.2e}, largest {numpy.abs(a - b).max():.3f}, same top {numpy.mean(a.argmax(1) == b.argmax(1)) * 100:.1f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=ROOT / "build/release/bin/qnext")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--isa", default=llama_cpp.best_isa())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ids = folder / "ids"
        ids.write_text(" ".join(str(i * 7919 % 1000) for i in range(arguments.tokens)))

        def theirs(isa, *options):
            command = [sys.executable, llama_cpp.__file__, "logits", arguments.model, "--tokens-file", ids, "--output", folder / "l.npy",
                       "--isa", isa, *options]
            subprocess.run(command, check=True)
            return numpy.load(folder / "l.npy")

        subprocess.run([arguments.program, "logits", "--model", arguments.model, "--tokens-file", ids, "--output", folder / "q"], check=True)
        ours = safetensors.numpy.load_file(folder / "q")["logits"]
        reference = theirs(arguments.isa)
        print("qnext, llama.cpp:                     ", difference(ours, reference))
        print("llama.cpp plain buffers, llama.cpp:   ", difference(theirs(arguments.isa, "--no-extra-buffers"), reference))
        print("llama.cpp AVX2, llama.cpp:            ", difference(theirs("avx2"), reference))


if __name__ == "__main__":
    main()
