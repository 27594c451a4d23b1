#!/usr/bin/env python3
"""The template interpreter against jinja2, on random conversations and expressions.

    tests/chat/compare.py PROGRAM [--qwen3 DIRECTORY] [--conversations N] [--expressions N] [--seed N]

PROGRAM is qnext_chat_render (tests/chat/render_stdin.cc). DIRECTORY holds Qwen3's tokenizer_config.json; without it, its
template is left out. Texts must be equal byte for byte, and where jinja2 raises, so must the interpreter. Needs jinja2.
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import time

import conversations
import oracle

HERE = pathlib.Path(__file__).resolve().parent
# What the interpreter refuses on purpose where Python goes on; each has its test in src/chat. (A constant such as 1[1:]
# is undefined in jinja2 and a variable of the same value fails; here both fail.)
REFUSED = re.compile(
    r"cannot print a |is not supported|are not supported|beyond 127 bits|sameas is supported|would be complex|cannot be sliced|limit of|more than \d+ steps|deeper than"
)
# Python prints addresses, or a generator's name, where data was meant.
ADDRESS = re.compile(r"object at 0x|built-in method|<bound method|<function |<class |generator object|Macro '|LoopContext")


def run(program, cases):
    lines = "".join(json.dumps({"template": t, "variables": v}) + "\n" for t, v in cases)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        sys.exit(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(name, program, cases, show):
    """Prints one line of summary; returns the number of differences."""
    env = oracle.environment()
    compiled = {}
    equal = errors = refused = 0
    different = []
    for (template, variables), ours in zip(cases, run(program, cases), strict=True):
        kind, theirs = oracle.render(env, template, variables, compiled)
        if ours.get(kind) == theirs:
            equal += 1
        elif kind == "error" and "error" in ours:
            errors += 1
        elif kind == "text" and (REFUSED.search(ours.get("error", "")) or ADDRESS.search(theirs)):
            refused += 1
        else:
            different.append((template, variables, theirs, ours))
    for template, variables, theirs, ours in different[:show]:
        data = "" if len(template) < 400 else "\n  data     " + json.dumps(variables, ensure_ascii=False)[:1500]
        print(f"DIFFERENT\n  template {template[:400]!r}{data}\n  jinja2   {theirs!r}\n  ours     {ours!r}")
    print(f"{name}: {len(cases)} cases, {equal} equal texts, {errors} errors on both sides, {refused} refused, "
          f"{len(different)} different", flush=True)
    return len(different)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--qwen3", type=pathlib.Path)
    parser.add_argument("--conversations", type=int, default=3000)
    parser.add_argument("--expressions", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=5)
    args = parser.parse_args()
    r = random.Random(args.seed)
    started = time.monotonic()

    templates = {path.name: path.read_text(encoding="utf-8") for path in sorted((HERE / "templates").glob("*.jinja"))}
    if args.qwen3:
        config = next(args.qwen3.rglob("tokenizer_config.json"))
        templates["Qwen3's own"] = json.loads(config.read_text(encoding="utf-8"))["chat_template"]
    talks = [conversations.conversation(r) for _ in range(args.conversations)]
    different = 0
    for name, template in templates.items():
        different += compare(name, args.program, [(template, talk) for talk in talks], args.show)
    expressions = ["{{ " + conversations.expression(r) + " }}" for _ in range(args.expressions)]
    different += compare("expressions", args.program, [(e, conversations.VARIABLES) for e in expressions], args.show)
    statements = [conversations.statement(r) for _ in range(args.expressions // 2)]
    different += compare("statements", args.program, [(s, conversations.VARIABLES) for s in statements], args.show)
    print(f"{'DIFFERENT' if different else 'equal'} after {time.monotonic() - started:.1f} s")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
