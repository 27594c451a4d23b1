#!/usr/bin/env python3
"""Our tokenizer against the `tokenizers` library on 8 MB of English, one thread each, alternating.

Two ways of feeding: one long text, and a list of passages of about 2 kB. Prints the medians and their ratio, and how
long loading took. The English is the glosses of WordNet (Debian package wordnet-base) or, without them, the licence
texts and copyright files of the system; it is kept in bench/data/.
"""

import argparse
import glob
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIZE = 8_000_000
DATA = os.path.join(ROOT, "bench/data/english-8mb.txt")


def english():
    """SIZE bytes of English text, the same at every call on one machine."""
    if not os.path.exists(DATA):
        passages = []
        for path in sorted(glob.glob("/usr/share/wordnet/data.*")):
            with open(path, encoding="utf-8", errors="replace") as file:
                passages += [line.split(" | ", 1)[1].strip() for line in file if " | " in line]
        if passages:
            text = "".join(p + (".\n" if i % 4 == 3 else ". ") for i, p in enumerate(passages))
        else:
            text = ""
            for path in sorted(glob.glob("/usr/share/common-licenses/*") + glob.glob("/usr/share/doc/*/copyright")):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text += re.sub(r"[^\x00-\x7f]", "", file.read())
        while len(text) < SIZE:
            text += text
        os.makedirs(os.path.dirname(DATA), exist_ok=True)
        with open(DATA + ".part", "w", encoding="ascii", errors="ignore") as file:
            file.write(text[:SIZE])
        os.replace(DATA + ".part", DATA)
    with open(DATA, encoding="ascii") as file:
        return file.read()


class Ours:
    def __init__(self, program, path):
        self.process = subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        (self.load_seconds,) = struct.unpack("<d", self.process.stdout.read(8))

    def seconds(self, texts):
        """(seconds in encode, ids)."""
        seconds = ids = 0
        for text in texts:
            data = text.encode()
            self.process.stdin.write(b"t" + struct.pack("<I", len(data)) + data)
            self.process.stdin.flush()
            count, elapsed = struct.unpack("<Id", self.process.stdout.read(12))
            seconds += elapsed
            ids += count
        return seconds, ids


def library_seconds(library, texts):
    start = time.perf_counter()
    if len(texts) == 1:
        encodings = [library.encode(texts[0], add_special_tokens=False)]
    else:
        encodings = library.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - start
    return seconds, sum(len(e) for e in encodings)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="the built qnext_tokenize_stdin")
    parser.add_argument("--tokenizer", default=os.path.join(ROOT, "third_party/qwen3-tokenizer/tokenizer.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    arguments = parser.parse_args()

    text = english()
    passages = re.findall(r".{1,2000}(?:\s|\Z)", text, re.S)
    start = time.perf_counter()
    library = tokenizers.Tokenizer.from_file(arguments.tokenizer)
    library_load = time.perf_counter() - start
    ours = Ours(arguments.program, arguments.tokenizer)
    results = {"load_seconds": ours.load_seconds, "load_seconds_tokenizers": library_load}
    for name, texts in (("one text", [text]), (f"{len(passages)} passages", passages)):
        size = sum(len(t) for t in texts) / 1e6
        times = {"qnext": [], "tokenizers": []}
        for _ in range(arguments.rounds):
            seconds, ids = ours.seconds(texts)
            times["qnext"].append(seconds)
            seconds, expected = library_seconds(library, texts)
            times["tokenizers"].append(seconds)
            if ids != expected:
                sys.exit(f"{name}: {ids} ids, tokenizers has {expected}")
        qnext, theirs = (statistics.median(times[key]) for key in ("qnext", "tokenizers"))
        results[name] = {
            "mb": size,
            "ids": ids,
            "mb_per_s": size / qnext,
            "mb_per_s_tokenizers": size / theirs,
            "ratio": theirs / qnext,
        }
    if arguments.json:
        print(json.dumps(results))
        return
    print(
        f"load: qnext {ours.load_seconds * 1e3:.0f} ms, "
        f"tokenizers {tokenizers.__version__} {library_load * 1e3:.0f} ms"
    )
    for name, result in results.items():
        if isinstance(result, dict):
            print(
                f"{name}, {result['mb']:.1f} MB, {result['ids']:,} ids: qnext {result['mb_per_s']:.1f} MB/s, "
                f"tokenizers {result['mb_per_s_tokenizers']:.2f} MB/s, ratio of medians {result['ratio']:.1f}"
            )


if __name__ == "__main__":
    main()
