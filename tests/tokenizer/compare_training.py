#!/usr/bin/env python3
"""Holds `qnext tokenizer train` to the `tokenizers` library: the same merges and vocabulary as its BpeTrainer on the same
texts, a tokenizer.json that the library loads, and the same ids from both.

    tests/tokenizer/compare_training.py --program build/release/bin/qnext --tokenize build/.../qnext_tokenize_stdin
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import compare  # noqa: E402
import corpus  # noqa: E402

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>"]
SPECIAL += ["</tool_response>", "<think>", "</think>"]


def train_library(texts, tokens):
    """(vocabulary, merges) of the library's trainer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=tokens, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def corpora():
    """{name: (texts, vocabulary size)}"""
    topics = corpus.build(SPECIAL)
    rng = random.Random(2)
    clean = [t for name in ("English", "Python source", "Chinese", "Hindi", "C source") for t in topics[name]]
    runs = ["a" * rng.randint(1, 40) + "b" * rng.randint(0, 9) + " " for _ in range(500)]
    two = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 30))) for _ in range(2000)]
    return {
        "text and source": (clean, 3000),
        "runs of one letter": (runs, 330),
        "words of two letters": (two, 900),
        "too little for the size": (["one two, two three three three"], 2000),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--tokenize", required=True, help="the built qnext_tokenize_stdin")
    arguments = parser.parse_args()
    comparison = compare.Comparison(arguments.tokenize)
    merges = 0
    for name, (texts, size) in corpora().items():
        texts = [t if isinstance(t, str) else t.decode("utf-8", "replace") for t in texts]
        texts = [text for text in texts if not any(token in text for token in SPECIAL)]
        with tempfile.TemporaryDirectory() as work:
            data = pathlib.Path(work) / "texts.jsonl"
            data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
            command = [arguments.program, "tokenizer", "train", "--vocab-size", str(size), "--input", data, "--out", work]
            subprocess.run(command, check=True, capture_output=True)
            definition = json.loads((pathlib.Path(work) / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary, library_merges = train_library(texts, size - len(SPECIAL))
        model = definition["model"]
        merges += len(library_merges)
        if model["merges"] != library_merges:
            comparison.fail(f"{name}: merges", b"", library_merges, model["merges"])
        if model["vocab"] != vocabulary:
            comparison.fail(f"{name}: vocabulary", b"", sorted(vocabulary), sorted(model["vocab"]))
        added = [(token["id"], token["content"]) for token in definition["added_tokens"]]
        if added != list(enumerate(SPECIAL, len(vocabulary))):
            comparison.fail(f"{name}: special tokens", b"", SPECIAL, added)
        sample = texts[:2000] + [rng_text + token for rng_text, token in zip(texts, SPECIAL)]
        comparison.run(name, definition, {"its own texts": sample})
    print(
        f"tokenizer training: {merges:,} merges, then {comparison.bytes:,} bytes, {comparison.ids:,} ids compared; "
        f"{comparison.failures} differ"
    )
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main())
