#!/usr/bin/env python3
"""tell, play, needle and evaluate with a tiny random model: its answers are wrong, the programs must work.

    tests/pocket_world/programs_test.py --program build/release/bin/qnext --golden tests/golden [-k PATTERN]
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/cli")]
import tiny_model  # noqa: E402
from pocket_world import client, evaluate, generate  # noqa: E402

PROGRAM = MODEL = WORK = None  # set by main


def program(name, *arguments, stdin="", expect=0):
    command = [sys.executable, ROOT / f"tools/pocket_world/{name}.py", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "QNEXT_PROGRAM": str(PROGRAM), "QNEXT_MODEL": str(MODEL)})
    if done.returncode != expect:
        raise AssertionError(f"{name}: exit status {done.returncode}, expected {expect}\n{done.stdout}\n{done.stderr}")
    return done.stdout, done.stderr


class FrontEnds(unittest.TestCase):
    def test_tell_auto(self):
        out, _ = program("tell", "--auto", "--seed", 1, "--words", 80, "--questions", 3, "--max-tokens", 4)
        self.assertIn("of 3 answers right", out)
        self.assertEqual(out.count("[wrong: ") + out.count("[right]"), 3)

    def test_tell_takes_questions(self):
        lines = "Where is the ball?\nWhat is love?\nmore\nnew\nquit\n"
        out, _ = program("tell", "--seed", 1, "--words", 40, "--questions", 1, "--max-tokens", 4, stdin=lines)
        self.assertIn("[wrong: I do not know.]", out)
        self.assertIn("[the simulator cannot check that]", out)
        self.assertRegex(out, r"\d of \d answers right")

    def test_play_auto(self):
        out, _ = program("play", "--auto", "--seed", 2, "--commands", 4, "--max-tokens", 4)
        self.assertEqual(out.count("\n> "), 4)
        self.assertIn("the model was right 0 of 5 times (0 %)", out)

    def test_play_takes_commands(self):
        out, _ = program("play", "--seed", 2, "--max-tokens", 4, stdin="help\nlook\ndance\nnew\nlook\nquit\n")
        self.assertIn("give X to SOMEONE", out)
        self.assertIn("[the simulator says: I do not understand.]", out)
        self.assertEqual(out.count("You start "), 2)

    def test_needle(self):
        for arguments in ((), ("--day",)):
            out, _ = program("needle", "--auto", "--seed", 3, "--words", 200, "--repeat", 2, "--max-tokens", 4, *arguments)
            self.assertIn("of 2 found", out)
            self.assertIn("recurrent state", out)
        self.assertIn("--distance", program("needle", "--words", 100, "--distance", 500, expect=1)[1])

    def test_errors_are_one_line(self):
        _, err = program("tell", "--auto", "--program", "/nowhere/qnext", expect=1)
        self.assertRegex(err, r"^tell: error: /nowhere/qnext: [^\n]*\n$")
        _, err = program("tell", "--auto", "--model", "/nowhere/model", expect=1)
        self.assertIn("tell: error: the program has ended", err)

    def test_evaluate(self):
        data = WORK / "set.jsonl"
        with open(data, "w", encoding="utf-8") as out:
            for index in range(6):
                out.write(json.dumps(generate.evaluation("t", index, (50, 200))) + "\n")
            for kind in ("tools", "adventure", "arithmetic"):
                out.write(json.dumps(generate.document(kind, "t", 0, 60, 70, accept=True)) + "\n")
        out, _ = program("evaluate", "--set", data, "--max-tokens", 4, "--json", WORK / "result.json")
        result = json.loads((WORK / "result.json").read_text())
        asked = sum(len(d["meta"]["questions"]) for d in evaluate.read_set(data))
        self.assertIn(f"{asked} questions in", out)
        self.assertEqual(len(result["questions"]), asked)
        self.assertEqual(result["summary"]["all"]["all"]["asked"], asked)
        self.assertEqual(set(result["summary"]["world"]) | set(result["summary"]["ledger"]), {"50", "200"})
        data.write_text('{"messages": 1}\n')
        self.assertIn("set.jsonl:1: expected a chat", program("evaluate", "--set", data, expect=1)[1])

    def test_a_model_that_answers_is_right(self):
        """The evaluator against a model that knows: it replays the set's own answers."""
        documents = [generate.document(kind, "t", i, 60, 200, accept=True) for kind in generate.KINDS if kind != "glossary" for i in range(3)]

        class Knowing:
            def start(self, messages, tools):
                document = next(d for d in documents if d["messages"][: len(messages)] == messages)
                message = document["messages"][len(messages)]
                calls = message.get("tool_calls")
                text = message["content"]
                if calls:
                    text = f"<tool_call>\n{json.dumps(calls[0]['function'])}\n</tool_call>"
                return {"text": text, "prompt_tokens": 1, "memory": {"state_bytes": 1, "kv_bytes": 1}}
        records = list(evaluate.ask_all(Knowing(), documents))
        self.assertGreater(len(records), 30)
        self.assertEqual([r for r in records if not r["right"]], [])


class Client(unittest.TestCase):
    def test_conversation(self):
        with client.Model(MODEL, PROGRAM, max_tokens=3) as model:
            first = model.start([{"role": "user", "content": "a"}])
            second = model.ask("b")
            self.assertGreaterEqual(second["reused_tokens"], first["prompt_tokens"])
            pieces = []
            reply = model.ask("c", on_piece=pieces.append)
            self.assertEqual("".join(pieces), reply["text"])
            with self.assertRaises(client.ModelError):
                model.request(content=1)
            self.assertTrue(model.ask("d")["tokens"])


def main():
    global PROGRAM, MODEL, WORK
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--golden", required=True, type=pathlib.Path)
    options, rest = parser.parse_known_args()
    PROGRAM = options.program.resolve()
    with tempfile.TemporaryDirectory() as folder:
        WORK = pathlib.Path(folder)
        MODEL = WORK / "model"
        tiny_model.make(MODEL, options.golden / "f32", context=16384)
        (MODEL / "chat_template.jinja").write_text((ROOT / "tools/pocket_world/chat_template.jinja").read_text())
        unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
