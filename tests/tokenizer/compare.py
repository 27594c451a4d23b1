#!/usr/bin/env python3
"""Holds our tokenizer to the `tokenizers` library, id for id and text for text, on the real Qwen3 tokenizer.json and
on variants of it. Needs tokenizers 0.23 and the packages that corpus.py names; see the end for the arguments."""

import argparse
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
import tokenizers  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import corpus  # noqa: E402

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Ours:
    """A qnext_tokenize_stdin process."""

    def __init__(self, program, path):
        self.process = subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        (self.load_seconds,) = struct.unpack("<d", self.read(8))

    def read(self, size):
        data = self.process.stdout.read(size)
        if len(data) != size:
            raise SystemExit(f"qnext_tokenize_stdin ended early (exit {self.process.wait()})")
        return data

    def sized(self):
        return self.read(struct.unpack("<I", self.read(4))[0])

    def encode(self, texts, plain):
        """[(ids, decoded, decoded without special tokens)] of byte strings."""

        def send():
            operation = b"p" if plain else b"e"
            for text in texts:
                self.process.stdin.write(operation + struct.pack("<I", len(text)) + text)
            self.process.stdin.flush()

        sender = threading.Thread(target=send)
        sender.start()
        answers = []
        for _ in texts:
            (count,) = struct.unpack("<I", self.read(4))
            ids = list(struct.unpack(f"<{count}i", self.read(4 * count)))
            answers.append((ids, self.sized().decode(), self.sized().decode()))
        sender.join()
        return answers


class Comparison:
    def __init__(self, program):
        self.program = program
        self.strings = self.bytes = self.ids = self.failures = 0

    def fail(self, what, text, theirs, ours):
        self.failures += 1
        if self.failures > 10:
            return
        first = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
        near = slice(max(0, first - 3), first + 5)
        print(f"FAILED {what}: at {first}: tokenizers {theirs[near]!r}, qnext {ours[near]!r}\n  text {text[:200]!r}")

    def run(self, name, definition, topics, plain=False):
        """Encodes and decodes every text of `topics` with both. `plain` compares with a library that has lost its
        added tokens."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(definition, file, ensure_ascii=False)
            file.flush()
            ours = Ours(self.program, file.name)
        library = tokenizers.Tokenizer.from_str(json.dumps({**definition, **({"added_tokens": []} if plain else {})}))
        for topic, texts in topics.items():
            data = [text if isinstance(text, bytes) else text.encode() for text in texts]
            theirs = [
                e.ids
                for e in library.encode_batch_fast(
                    [d.decode("utf-8", "replace") for d in data], add_special_tokens=False
                )
            ]
            decoded = library.decode_batch(theirs, skip_special_tokens=False)
            visible = library.decode_batch(theirs, skip_special_tokens=True)
            for text, ids, all_text, text_shown, answer in zip(
                data, theirs, decoded, visible, ours.encode(data, plain)
            ):
                what = f"{name}, {topic}"
                if ids != answer[0]:
                    self.fail(f"{what}: encode", text, ids, answer[0])
                elif all_text != answer[1]:
                    self.fail(f"{what}: decode", text, all_text, answer[1])
                elif not plain and text_shown != answer[2]:
                    self.fail(f"{what}: decode without special tokens", text, text_shown, answer[2])
                self.ids += len(ids)
            self.strings += len(data)
            self.bytes += sum(map(len, data))
        ours.process.stdin.close()
        if ours.process.wait() != 0:
            self.fail(name, b"", [0], [ours.process.returncode])


def variants(real):
    """Other files we claim to read like the library: {name: definition}."""
    split = real["pre_tokenizer"]["pretokenizers"][0]
    bytes_level = real["pre_tokenizer"]["pretokenizers"][1]
    added = [
        ("<a", {}),
        ("<a>", {}),
        ("<ab>", {"special": True}),
        ("[L]", {"lstrip": True}),
        ("[R]", {"rstrip": True}),
        ("[LR]", {"lstrip": True, "rstrip": True}),
        ("<think>", {"special": True}),
        ("\u00e9\u0323", {"normalized": True}),
        ("\u1e69!", {"normalized": True, "lstrip": True}),
        (" x", {}),
        ("\u0120\u00e9", {}),
        ("中 文", {"special": True}),
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    vocabulary = real["model"]["vocab"]
    fresh = itertools.count(len(vocabulary))
    return {
        "merges as strings, no normalizer": {
            **real,
            "normalizer": None,
            "post_processor": None,
            "model": {**real["model"], "merges": [" ".join(pair) for pair in real["model"]["merges"]]},
        },
        "added tokens of every kind": {
            **real,
            "added_tokens": [
                {**flags, **more, "content": text, "id": vocabulary[text] if text in vocabulary else next(fresh)}
                for text, more in added
            ],
        },
        "another split pattern": {
            **real,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{**split, "pattern": {"Regex": LLAMA3_PATTERN}}, bytes_level],
            },
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="the built qnext_tokenize_stdin")
    parser.add_argument("--tokenizer", default="third_party/qwen3-tokenizer/tokenizer.json")
    arguments = parser.parse_args()
    start = time.monotonic()
    with open(arguments.tokenizer, encoding="utf-8") as file:
        real = json.load(file)
    topics = corpus.build([token["content"] for token in real["added_tokens"]])
    comparison = Comparison(arguments.program)
    comparison.run("Qwen3", real, topics)
    some = {
        "random strings": topics["random strings"][:10_000],
        "C source": topics["C source"],
        "invalid UTF-8": topics["invalid UTF-8"][:1000],
        "long runs": topics["long runs"],
    }
    comparison.run("Qwen3, special tokens as text", real, some, plain=True)
    for name, definition in variants(real).items():
        texts = some
        if name == "added tokens of every kind":
            contents = [token["content"] for token in definition["added_tokens"]] + [
                "s\u0323\u0307!",
                "e\u0323\u0301",
                " ",
            ]
            rng = corpus.random.Random(1)
            texts = {
                "random strings": [
                    corpus.random_string(rng, contents) + rng.choice(contents) + rng.choice(contents)
                    for _ in range(10_000)
                ]
            }
        elif name == "another split pattern":  # PCRE2's Unicode is older than the library's: no rare characters
            texts = {topic: topics[topic] for topic in ("English", "Arabic", "Thai", "Python source")}
        comparison.run(name, definition, texts)
    print(
        f"tokenizer: {comparison.strings:,} texts, {comparison.bytes:,} bytes, {comparison.ids:,} ids compared with "
        f"tokenizers {tokenizers.__version__} in {time.monotonic() - start:.1f} s; {comparison.failures} differ"
    )
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main())
