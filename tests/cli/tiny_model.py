"""Makes a checkpoint that can talk (in gibberish): a golden one with a vocabulary wide enough for a byte-level tokenizer.
Standard library only."""
import array
import json
import pathlib
import random
import struct

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISIBLE = ["<think>", "</think>"]
END = [258, 256]  # <|im_end|>, <|endoftext|>
VOCABULARY = 320  # 256 bytes, 5 added tokens, and padding rows that must never be sampled
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    begin = 8 + size
    return {name: (t["dtype"], t["shape"], data[begin + t["data_offsets"][0]:begin + t["data_offsets"][1]])
            for name, t in header.items()}


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def floats(data):
    values = array.array("f")
    values.frombytes(data)
    return values


def byte_alphabet():
    """GPT-2's: how byte-level tokenizers write each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in printable)
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def tokenizer():
    added = [{"id": 256 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": text in SPECIAL} for i, text in enumerate(SPECIAL + VISIBLE)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "vocab": {character: byte for byte, character in byte_alphabet().items()}, "merges": []},
    }


def make(directory, golden, context=256, endless=False):
    """Writes the model into `directory`; `golden` is tests/golden/f32. `endless`: what ends an answer is never the likeliest."""
    golden, directory = pathlib.Path(golden), pathlib.Path(directory)
    directory.mkdir(parents=True)
    config = json.loads((golden / "config.json").read_text())
    config.update(vocab_size=VOCABULARY, eos_token_id=258, bos_token_id=None, pad_token_id=None,
                  max_position_embeddings=context)
    tensors = read_safetensors(golden / "model.safetensors")
    rng = random.Random(1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        dtype, (_, hidden), _ = tensors[name]
        assert dtype == "F32", dtype
        rows = array.array("f", (rng.gauss(0, 1) for _ in range(VOCABULARY * hidden)))
        if endless and name == "lm_head.weight":
            for token in END:
                rows[token * hidden:(token + 1) * hidden] = array.array("f", bytes(4 * hidden))
        tensors[name] = (dtype, [VOCABULARY, hidden], rows.tobytes())
    write_safetensors(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (directory / "generation_config.json").write_text(json.dumps(
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": END}))
    return directory
