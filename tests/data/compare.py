#!/usr/bin/env python3
"""Holds `qnext data pack` to jinja2 and the `tokenizers` library: random conversations, with tools and thinking, through
several templates. What is expected is found the slow way: every beginning of a conversation is rendered, each piece is
encoded by the library, and the assistant's pieces are the targets.

    tests/data/compare.py --program build/release/bin/qnext [--conversations 400]
"""
import argparse
import copy
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/chat"))
import conversations  # noqa: E402
import oracle  # noqa: E402

NOT_TARGET = 1 << 31
SPOILERS = ["<|im_end|>", "<|im_start|>assistant\n", "<think>", "<|endoftext|>"]


def text(r):
    words = conversations.text(r, 8)
    return words + " " + r.choice(SPOILERS) + " x" if r.random() < 0.08 else words


def assistant(r, thinking):
    message = {"role": "assistant", "content": text(r)}
    if thinking and r.random() < 0.3:
        message["reasoning_content"] = text(r)
    elif thinking and r.random() < 0.2:
        message["content"] = "<think>\n" + conversations.text(r) + "\n</think>\n\n" + message["content"]
    return message


def conversation(r, thinking):
    messages = []
    if r.random() < 0.4:
        messages.append({"role": "system", "content": text(r)})
    for _ in range(r.choice([1, 1, 2, 3, 5, 9])):
        messages.append({"role": "user", "content": text(r)})
        while r.random() < 0.25:
            call = assistant(r, thinking)
            call["tool_calls"] = [
                {"type": "function", "function": {"name": "f", "arguments": {"a": text(r), "n": r.randint(0, 9)}}}
                for _ in range(r.randint(1, 2))
            ]
            messages += [call, {"role": "tool", "content": text(r)}]
        messages.append(assistant(r, thinking))
        if r.random() < 0.05:
            messages.append(assistant(r, thinking))
    if r.random() < 0.1:
        messages.append({"role": "user", "content": "one more"})
    record = {"messages": messages}
    if r.random() < 0.3:
        record["tools"] = [conversations.tool(r) for _ in range(r.randint(1, 2))]
    return record


class Library:
    """The tokenizers library, with special tokens that people typed kept plain."""

    def __init__(self, path):
        definition = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        self.added = {token["content"]: token["id"] for token in definition["added_tokens"]}
        self.special = [token["content"] for token in definition["added_tokens"] if token["special"]]
        self.plain = tokenizers.Tokenizer.from_str(json.dumps({**definition, "added_tokens": []}))
        self.stand_ins = {token: chr(0xF0000 + i) for i, token in enumerate(self.added)}

    def protect(self, value, tokens):
        if isinstance(value, str):
            for token in tokens:
                value = value.replace(token, self.stand_ins[token])
            return value
        if isinstance(value, list):
            return [self.protect(item, tokens) for item in value]
        if isinstance(value, dict):
            return {key: item if key == "role" else self.protect(item, tokens) for key, item in value.items()}
        return value

    def encode(self, rendered):
        ids = []
        at = 0
        while at < len(rendered):
            found = [(i, token) for token in self.added if (i := rendered.find(token, at)) >= 0]
            end, token = min(found, default=(len(rendered), None))
            piece = rendered[at:end]
            for original, stand_in in self.stand_ins.items():
                piece = piece.replace(stand_in, original)
            ids += self.plain.encode(piece, add_special_tokens=False).ids
            if token is None:
                break
            ids.append(self.added[token])
            at = end + len(token)
        return ids


def expected(record, library, env, template, compiled):
    """The words of a conversation, or None where beginnings do not grow into the whole."""
    messages = [
        library.protect(m, library.special if m["role"] == "assistant" else library.added)
        for m in copy.deepcopy(record["messages"])
    ]
    tools = library.protect(record.get("tools"), library.added)

    def render(count, prompt):
        kind, rendered = oracle.render(
            env,
            template,
            {"messages": messages[:count], "tools": tools, "add_generation_prompt": prompt, "eos_token": "<|im_end|>"},
            compiled,
        )
        return rendered if kind == "text" else None

    whole = render(len(messages), False)
    if whole is None:
        return None
    words = []
    done = 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(i, True), render(i + 1, False)
        if before is None or after is None or not whole.startswith(before) or not whole.startswith(after):
            return None
        if len(after) < len(before):
            return None
        turn = after[len(before) :]
        ends = [turn.rfind(token) + len(token) for token in library.special if token in turn]
        end = max(ends, default=0)
        if end == 0 or turn[end:].strip():
            end = len(turn)
        words += [token | NOT_TARGET for token in library.encode(whole[done : len(before)])]
        words += library.encode(whole[len(before) : len(before) + end])
        done = len(before) + end
    while words and words[-1] & NOT_TARGET:
        words.pop()
    return words or None


def read_shards(directory):
    """[document as a list of words], read from the bytes as src/data/token_shard.h lays them out."""
    documents = []
    for shard in json.loads((directory / "dataset.json").read_text())["shards"]:
        data = (directory / shard["file"]).read_bytes()
        assert data[:8] == b"QNEXTTOK", data[:8]
        count, tokens = struct.unpack_from("<QQ", data, 24)
        words = struct.unpack_from(f"<{tokens}I", data, 128)
        offsets = struct.unpack_from(f"<{count + 1}Q", data, 128 + 4 * (tokens + tokens % 2))
        documents += [list(words[a:b]) for a, b in zip(offsets, offsets[1:])]
    return documents


def compare(program, name, template, records, work):
    tokenizer = work / name
    tokenizer.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models/starter" / file, tokenizer)
    (tokenizer / "chat_template.jinja").write_text(template, encoding="utf-8")
    data = work / f"{name}.jsonl"
    data.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    out = work / f"{name}-packed"
    done = subprocess.run(
        [program, "data", "pack", "--tokenizer", tokenizer, "--out", out, "--skip-bad", "--json", data],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{name}: {done.stderr.decode()}")
    report = json.loads(done.stdout)
    library = Library(tokenizer / "tokenizer.json")
    env, compiled = oracle.environment(), {}
    wanted = [words for record in records if (words := expected(record, library, env, template, compiled)) is not None]
    found = read_shards(out)
    differ = 0
    ours, theirs = sorted(found), sorted(wanted)
    if ours != theirs:
        only_ours = [words for words in ours if words not in theirs]
        only_theirs = [words for words in theirs if words not in ours]
        differ = max(len(only_ours), len(only_theirs), 1)
        print(f"FAILED {name}: {len(only_ours)} documents only of qnext, {len(only_theirs)} only of the library")
        for which, documents in (("qnext", only_ours), ("library", only_theirs)):
            for words in documents[:2]:
                shown = "".join(
                    ("" if word & NOT_TARGET else "\u0332") + library.plain.decode([word & ~NOT_TARGET])
                    for word in words
                )
                print(f"  {which}: {shown[:600]!r}")
    if report["skipped"] != len(records) - len(wanted):
        differ += 1
        print(f"FAILED {name}: {report['skipped']} records skipped, expected {len(records) - len(wanted)}")
    tokens = sum(map(len, wanted))
    print(f"{name}: {len(wanted)} conversations, {tokens:,} tokens, {report['skipped']} refused; {differ} differ")
    return differ


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--conversations", type=int, default=400)
    arguments = parser.parse_args()
    templates = {
        "chatml": ((ROOT / "models/starter/chat_template.jinja").read_text(encoding="utf-8"), False),
        "instruct": ((ROOT / "tests/chat/templates/instruct.jinja").read_text(encoding="utf-8"), False),
        "instruct-thinking-data": ((ROOT / "tests/chat/templates/instruct.jinja").read_text(encoding="utf-8"), True),
        "thinking": ((ROOT / "tests/chat/templates/thinking.jinja").read_text(encoding="utf-8"), True),
        "coder": ((ROOT / "tests/chat/templates/coder.jinja").read_text(encoding="utf-8"), False),
    }
    failures = 0
    with tempfile.TemporaryDirectory() as work:
        for name, (template, thinking) in templates.items():
            r = random.Random(name)
            records = [conversation(r, thinking) for _ in range(arguments.conversations)]
            failures += compare(arguments.program, name, template, records, pathlib.Path(work))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
