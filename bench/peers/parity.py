#!/usr/bin/env python3
"""Logits of the same GGUF from qnext and from llama.cpp: relative RMS difference and how often the likeliest token agrees.

    parity.py MODEL.gguf [--tokens 64] [--isa avx512] [--reference]

Both round activations before they meet weights of block types, each in its own way, so they differ by the noise of two roundings.
With --reference the file is decoded to F32 (in a temporary file of that size), where nothing is rounded, and both are held
against llama.cpp's logits of that: qnext's noise should not exceed llama.cpp's.
"""

import argparse
import os
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
    parser.add_argument("--isa", default=llama_cpp.best_isa(), help="of llama.cpp; for qnext set QNEXT_ISA")
    parser.add_argument("--extra-buffers", action="store_true", help="llama.cpp with repacked weights (more memory)")
    parser.add_argument("--reference", action="store_true", help="also hold both against the decoded weights in F32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        folder = pathlib.Path(folder)
        ids = folder / "ids"
        ids.write_text(" ".join(str(i * 7919 % 1000) for i in range(arguments.tokens)))

        def ours(model):
            command = [arguments.program, "logits", "--model", model, "--tokens-file", ids, "--output", folder / "q"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            return safetensors.numpy.load_file(folder / "q")["logits"]

        def theirs(model):
            command = [sys.executable, llama_cpp.__file__, "logits", model, "--tokens-file", ids, "--output", folder / "l.npy",
                       "--isa", arguments.isa]
            subprocess.run(command + ([] if arguments.extra_buffers else ["--no-extra-buffers"]), check=True)
            return numpy.load(folder / "l.npy")

        mine, other = ours(arguments.model), theirs(arguments.model)
        print("qnext, llama.cpp:         ", difference(mine, other))
        if arguments.reference:
            decoded = folder / "decoded.gguf"
            llama_cpp.quantize_model(arguments.model, decoded, "F32")
            reference = theirs(decoded)
            print("qnext, decoded:           ", difference(mine, reference))
            print("llama.cpp, decoded:       ", difference(other, reference))
            print("qnext of decoded, decoded:", difference(ours(decoded), reference))


if __name__ == "__main__":
    main()
