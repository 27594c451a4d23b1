#!/usr/bin/env python3
"""Records tests/golden/chat/*.json: what jinja2, set up as transformers does, makes of templates and expressions.

    tests/chat/make_golden.py [--check-transformers]

With --check-transformers, every rendering is also compared with transformers' own function, where that is installed.
"""

import argparse
import json
import pathlib
import random
import re

import conversations
import oracle
from compare import ADDRESS

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden" / "chat"
NOW = 1_700_000_000  # 2023-11-14 22:13:20 UTC


def case(env, template, variables, check):
    kind, result = oracle.render(env, template, variables)
    if check is not None:
        try:
            theirs = ("text", check(template).render(**json.loads(json.dumps(variables))))
        except Exception as error:
            theirs = ("error", f"{type(error).__name__}: {error}")
        assert theirs[0] == kind and (kind == "error" or theirs[1] == result), (template, theirs, result)
    return {kind: result}


def write(name, data):
    GOLDEN.mkdir(parents=True, exist_ok=True)
    (GOLDEN / name).write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check-transformers", action="store_true")
    args = parser.parse_args()
    check = None
    if args.check_transformers:
        from transformers.utils import chat_template_utils

        check = chat_template_utils._compile_jinja_template
    env = oracle.environment(NOW)

    for path in sorted((HERE / "templates").glob("*.jinja")):
        r = random.Random(path.name)
        template = path.read_text(encoding="utf-8")
        cases = []
        while len(cases) < 12:
            variables = conversations.conversation(r)
            result = case(env, template, variables, check)
            if "text" in result or len(cases) % 6 == 5:  # a few that fail
                cases.append({"variables": variables, **result})
        write(f"{path.stem}.json", {"template_file": f"tests/chat/templates/{path.name}", "cases": cases})

    r = random.Random(7)
    # Every slice of every variable here, and none among the random expressions: jinja2 computes those of constants with
    # other rules than those of variables.
    atoms = ["s", "t", "e", "n", "o", "l", "m", "d", "rows", "range(6)", "(1, 2, 3)", "nope"]
    slices = [f"{{{{ {atom}{part} }}}}" for atom in atoms for part in conversations.SLICES]
    cases = [{"template": t, **case(env, t, conversations.VARIABLES, check)} for t in slices]
    while len(cases) < 600:
        template = "{{ " + conversations.expression(r, 1) + " }}" if len(cases) < 460 else conversations.statement(r)
        if re.search(r"\[[^],]*:[^],]*\]", template):
            continue
        result = case(env, template, conversations.VARIABLES, check)
        if ADDRESS.search(result.get("text", "")) or ("error" in result and r.random() < 0.7):
            continue
        cases.append({"template": template, **result})
    write("expressions.json", {"variables": conversations.VARIABLES, "cases": cases})


if __name__ == "__main__":
    main()
