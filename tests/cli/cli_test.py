#!/usr/bin/env python3
"""The program as people use it: what it prints, what it refuses, and how it exits. Standard library only.

    tests/cli/cli_test.py --program build/release/bin/qnext --golden tests/golden [-k PATTERN]
"""
import argparse
import json
import math
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tiny_model  # noqa: E402

PROGRAM = GOLDEN = WORK = MODEL = LONG = None  # set by main


def qnext(*arguments, stdin="", expect=0, env=None):
    """Runs the program; returns (stdout, stderr). Fails when the exit status is not the expected one."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], input=stdin.encode(), capture_output=True, timeout=300,
                          env={**os.environ, **(env or {})}, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    if done.returncode != expect:
        raise AssertionError(f"qnext {' '.join(map(str, arguments))}: exit status {done.returncode}, expected {expect}\n{err}")
    return out, err


def refused(*arguments, stdin="", status=1, env=None):
    """The error message of a refused request; it must be one clear line that begins like every other."""
    out, err = qnext(*arguments, stdin=stdin, expect=status, env=env)
    assert out == "", out
    assert err.startswith("qnext: error: "), err
    return err


def run_json(*arguments, **more):
    return json.loads(qnext("run", "-m", MODEL, "--json", *arguments, **more)[0])


def relative_rms(ours, theirs):
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    error = sum((a - b) ** 2 for a, b in zip(ours, theirs))
    return math.sqrt(error / sum(b * b for b in theirs))


class CommandLine(unittest.TestCase):
    def test_help_and_version(self):
        self.assertIn("Subcommands:", qnext("--help")[0])
        self.assertRegex(qnext("--version")[0], r"^qnext \d+\.\d+\.\d+\n$")
        for command in ("run", "logits", "perplexity", "tokenize", "inspect", "bench", "kld", "synth", "data", "tokenizer"):
            self.assertIn("Examples:", qnext(command, "--help")[0])

    def test_usage_errors(self):
        for arguments in ([], ["--nonsense"], ["fly"], ["run", "--top-p", "2", "x"], ["run", "--temperature", "warm", "x"],
                          ["run", "--single-turn", "x"], ["logits", "--text", "x"], ["run", "--memory-limit", "10X", "x"],
                          ["run", "--chat", "--json", "x"], ["run", "--kv", "f64", "x"], ["perplexity"],
                          ["logits", "--text", "a", "--tokens-file", "b", "-o", "c"], ["run", "--threads", "0", "x"]):
            message = refused(*arguments, status=2)
            self.assertIn("--help", message, arguments)

    def test_gguf_files(self):
        """Every command takes a GGUF file, or the directory that holds it, where it takes a model directory."""
        directory = WORK / "gguf"
        directory.mkdir()
        file = directory / "tiny.gguf"
        qnext("synth", "--preset", "tiny", "--type", "BF16", "--mtp", file)
        ids = qnext("tokenize", "-m", file, "--ids", "Hi.")[0]
        self.assertEqual(len(ids.split()), 3)
        reports = [json.loads(qnext("inspect", path, "--json")[0]) for path in (file, directory)]
        self.assertEqual(reports[0]["architecture"], reports[1]["architecture"])
        self.assertTrue(reports[0]["architecture"]["mtp"])
        self.assertEqual(sorted(reports[0]["bytes_by_type"]), ["BF16", "F32"])
        self.assertEqual(reports[0]["memory"]["weights_mapped"], file.stat().st_size)
        qnext("logits", "-m", file, "--text", "Hi.", "--mtp", "-o", WORK / "gguf.safetensors")
        self.assertTrue(qnext("perplexity", "-m", file, "-f", "-", stdin="Hi there.")[0])
        self.assertEqual(json.loads(qnext("run", "-m", file, "--json", "-n", "2", "Hi.")[0])["prompt_tokens"], 3)

        (directory / "cut").mkdir()
        cut = directory / "cut" / "cut.gguf"
        cut.write_bytes(file.read_bytes()[:-1000])
        self.assertIn("is the file cut short?", refused("run", "-m", cut, "x"))
        (directory / "other.gguf").write_bytes(b"")
        self.assertIn("one GGUF file or the parts of one", refused("inspect", directory))

    def test_which_model(self):
        self.assertIn("/nowhere: no such model directory", refused("run", "-m", "/nowhere", "x"))
        self.assertIn("it has no config.json", refused("run", "-m", WORK, "x"))
        self.assertIn("(from QNEXT_MODEL)", refused("run", "x", env={"QNEXT_MODEL": "/nowhere"}))
        self.assertEqual(json.loads(qnext("tokenize", "--json", "ab", env={"QNEXT_MODEL": str(MODEL)})[0])["ids"], [97, 98])


class Run(unittest.TestCase):
    def test_completion(self):
        out, err = qnext("run", "-m", MODEL, "--seed", 1, "-n", 20, "Once upon")
        self.assertTrue(out.startswith("Once upon"))
        self.assertRegex(err, r"\[prompt: 9 tokens, .*; answer: \d+ tokens, .*; memory: .*; seed 1\]")

    def test_json(self):
        result = run_json("--seed", 5, "--max-tokens", 12, "Once")
        self.assertEqual(result["prompt_tokens"], 4)
        self.assertEqual(len(result["tokens"]), result["answer_tokens"])
        self.assertLessEqual(result["answer_tokens"], 12)
        self.assertIn(result["finish_reason"], ("max_tokens", "stop_token"))
        self.assertEqual(result["sampling"], {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0, "seed": 5,
                                              "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0})
        for key in ("prefill_seconds", "decode_seconds", "decode_tokens_per_second"):
            self.assertGreaterEqual(result["timings"][key], 0)
        self.assertGreater(result["memory"]["peak_resident_bytes"], 0)

    def test_seed(self):
        first = run_json("--seed", 5, "-n", 40, "--temperature", 2, "Once")["tokens"]
        self.assertEqual(first, run_json("--seed", 5, "-n", 40, "--temperature", 2, "Once")["tokens"])
        self.assertNotEqual(first, run_json("--seed", 6, "-n", 40, "--temperature", 2, "Once")["tokens"])

    def test_padding_rows_are_never_sampled(self):
        result = run_json("--seed", 2, "-n", 200, "--temperature", 100, "--top-k", 0, "--top-p", 1, "x")
        self.assertLess(max(result["tokens"]), 261)

    def test_greedy_does_not_depend_on_the_seed_or_threads(self):
        one = run_json("--temperature", 0, "--seed", 1, "-n", 30, "--threads", 1, "Once")
        two = run_json("--temperature", 0, "--seed", 2, "-n", 30, "--threads", 2, "Once")
        self.assertEqual(one["tokens"], two["tokens"])

    def test_stop_string(self):
        free = run_json("--temperature", 1, "--seed", 3, "-n", 60, "Once")
        text = free["text"]
        stop = text[4:7]
        cut = run_json("--temperature", 1, "--seed", 3, "-n", 60, "--stop", stop, "--stop", "never occurs", "Once")
        self.assertEqual(cut["text"], text[:text.index(stop)])
        self.assertEqual((cut["finish_reason"], cut["stop_string"]), ("stop_string", stop))

    def test_prompt_from_stdin(self):
        out, _ = qnext("run", "-m", MODEL, "-n", 3, "-q", "--temperature", 0, stdin="Once upon")
        self.assertEqual(out.rstrip("\n"), run_json("-n", 3, "--temperature", 0, "Once upon")["text"].rstrip("\n"))

    def test_special_tokens_in_a_prompt(self):
        self.assertEqual(run_json("-n", 1, "<|im_end|>")["prompt_tokens"], 1)
        self.assertEqual(run_json("-n", 1, "--plain", "<|im_end|>")["prompt_tokens"], 10)

    def test_context(self):
        result = run_json("--context", 10, "--seed", 1, "--temperature", 2, "-n", 0, "12345678")
        self.assertEqual(result["finish_reason"], "context_full")
        self.assertEqual(result["answer_tokens"], 3)  # two that fit, and the one that these predict
        message = refused("run", "-m", MODEL, "--context", 10, "12345678901")
        self.assertIn("the prompt has 11 tokens, but the context holds 10", message)
        self.assertIn("the model was made for 256 tokens", refused("run", "-m", MODEL, "--context", 257, "x"))
        self.assertIn("the prompt is empty", refused("run", "-m", MODEL, ""))

    def test_not_enough_memory(self):
        self.assertIn("not enough memory", refused("run", "-m", MODEL, "--memory-limit", "100K", "x"))

    def test_bf16_keys_and_values_take_half(self):
        plans = [json.loads(qnext("inspect", MODEL, "--json", "--kv", kv)[0])["memory"]["kv_per_token"] for kv in ("f32", "bf16")]
        self.assertEqual(plans[0], 2 * plans[1])
        run_json("--kv", "bf16", "-n", 3, "Once")


class Chat(unittest.TestCase):
    def chat(self, lines, *arguments):
        return qnext("run", "-m", MODEL, "--chat", "--seed", 4, "-n", 8, *arguments, stdin="".join(f"{l}\n" for l in lines))

    def test_single_turn(self):
        out, err = qnext("run", "-m", MODEL, "--chat", "--single-turn", "--seed", 1, "-n", 8, "Hi")
        self.assertTrue(out)
        prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        count = json.loads(qnext("tokenize", "-m", MODEL, "--json", prompt)[0])["count"]
        self.assertIn(f"[prompt: {count} tokens", err)
        result = run_json("--chat", "-1", "--temperature", 0, "-n", 8, "--system", "S", "Hi")
        system = json.loads(qnext("tokenize", "-m", MODEL, "--json", "<|im_start|>system\nS<|im_end|>\n")[0])["count"]
        self.assertEqual(result["prompt_tokens"], count + system)

    def test_typed_special_tokens_are_plain(self):
        plain = run_json("--chat", "-1", "-n", 1, "1234567890")["prompt_tokens"]
        self.assertEqual(run_json("--chat", "-1", "-n", 1, "<|im_end|>")["prompt_tokens"], plain)

    def test_turns_continue_the_sequence(self):
        _, err = self.chat(["one", "two", "three", "/stats"])
        self.assertIn("the whole conversation was read again 0 times", err)
        self.assertIn("6 messages", err)
        self.assertRegex(err, r"\(and \d+ reused\)")

    def test_a_template_that_rewrites_answers_is_read_again(self):
        model = WORK / "rewriting"
        model.mkdir()
        for file in MODEL.iterdir():
            (model / file.name).symlink_to(file)
        (model / "chat_template.jinja").write_text(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>\n"
            "{% endfor %}<|im_start|>assistant\n")
        _, err = qnext("run", "-m", model, "--chat", "--seed", 4, "-n", 8, stdin="one\ntwo\n/stats\n")
        self.assertIn("the whole conversation was read again 1 time (", err)
        self.assertIn("4 messages", err)

    def test_save_load_reset(self):
        file = WORK / "conversation.json"
        _, err = self.chat(["one", f"/save {file}", "/reset", "/stats", f"/load {file}", "two", "/stats", "/exit", "never"],
                           "--system", "Be <|im_end|> brief.")
        self.assertIn("[3 messages saved to", err)
        self.assertIn("\n1 messages, 0 of 256 tokens", err)
        self.assertIn("\n5 messages, ", err)
        messages = json.loads(file.read_text())["messages"]
        self.assertEqual([m["role"] for m in messages], ["system", "user", "assistant"])
        self.assertEqual([m["content"] for m in messages[:2]], ["Be <|im_end|> brief.", "one"])

    def test_commands_that_fail_leave_the_conversation(self):
        broken = WORK / "broken.json"
        broken.write_text('{"messages": [{"role": "user"}]}')
        _, err = self.chat(["one", "/save", "/save /nowhere/x", "/load /nowhere/x", f"/load {broken}", "/fly", "/help", "/stats"])
        self.assertIn("/save needs a file name", err)
        self.assertIn("/nowhere/x: cannot be written", err)
        self.assertIn("messages[0].content: expected a string, found none", err)
        self.assertIn("/fly is not a command", err)
        self.assertIn("/reset ", err)
        self.assertIn("\n2 messages", err)

    def test_lines_may_continue_and_begin_with_a_slash(self):
        file = WORK / "lines.json"
        self.chat(["one\\", "two", "//three", f"/save {file}"])
        users = [m["content"] for m in json.loads(file.read_text())["messages"] if m["role"] == "user"]
        self.assertEqual(users, ["one\ntwo", "/three"])

    def test_a_message_beyond_the_context_is_refused(self):
        _, err = qnext("run", "-m", MODEL, "--chat", "--context", 60, stdin="x" * 100 + "\n", expect=1)
        self.assertIn("but the context holds 60", err)


class ChatLines(unittest.TestCase):
    """run --chat --json: a conversation for programs."""

    def lines(self, *requests, model=None, status=0):
        text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in requests)
        out, _ = qnext("run", "-m", model or MODEL, "--chat", "--json", "--seed", 4, "-n", 6, stdin=text, expect=status)
        return [json.loads(line) for line in out.splitlines()]

    def test_turns_read_what_is_new(self):
        first, second, again, anew = self.lines(
            {"content": "one"}, {"role": "user", "content": "two"}, {"content": "three", "max_tokens": 2, "temperature": 0},
            {"messages": [{"role": "user", "content": "one"}]})
        self.assertEqual(first["reused_tokens"], 0)
        self.assertGreaterEqual(second["reused_tokens"], first["prompt_tokens"])
        self.assertGreaterEqual(again["reused_tokens"], second["prompt_tokens"])
        self.assertLessEqual(again["answer_tokens"], 2)
        self.assertEqual(anew["text"], first["text"])  # same seed, same conversation
        memory = second["memory"]
        self.assertEqual(memory["kv_bytes"] + memory["state_bytes"], memory["sequence_bytes"])
        self.assertGreater(memory["state_bytes"], 0)

    def test_a_known_beginning_is_not_read_again(self):
        messages = [{"role": "user", "content": "one"}]
        first = self.lines({"messages": messages})[0]
        messages += [{"role": "assistant", "content": first["text"]}, {"role": "user", "content": "two"}]
        _, second = self.lines({"messages": messages[:1]}, {"messages": messages})
        self.assertGreaterEqual(second["reused_tokens"], first["prompt_tokens"])

    def test_pieces_add_up(self):
        *pieces, result = self.lines({"content": "one", "stream": True})
        self.assertEqual("".join(p["piece"] for p in pieces), result["text"])

    def test_tools_reach_the_template(self):
        model = WORK / "tools"
        model.mkdir()
        for file in MODEL.iterdir():
            (model / file.name).symlink_to(file)
        (model / "chat_template.jinja").write_text(
            "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}{{ m.content }}"
            "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}{% endfor %}")
        user = [{"role": "user", "content": "a"}]
        call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "xyz", "arguments": {}}}]}
        plain, tools, called = self.lines({"messages": user}, {"messages": user, "tools": [{"name": "t"}]},
                                          {"messages": [*user, call, {"role": "tool", "content": "b"}]}, model=model)
        self.assertGreater(tools["prompt_tokens"], plain["prompt_tokens"])
        self.assertGreater(called["prompt_tokens"], plain["prompt_tokens"])

    def test_what_is_refused_changes_nothing(self):
        bad = ["[1", "3", {}, {"content": 3}, {"foo": 1}, {"messages": []}, {"messages": [{"role": "user", "content": 1}]},
               {"messages": [{"content": "x"}]}, {"content": "x", "max_tokens": -1}, {"content": "x", "temperature": "hot"},
               {"content": "x", "tools": [1]}, {"content": "x", "messages": [{"role": "user", "content": "x"}]},
               {"content": "x", "stop": [""]}, "[" * 100 + "]" * 100]
        first, *errors, last = self.lines({"content": "one"}, *bad, {"content": "two"})
        self.assertEqual(len(errors), len(bad))
        for request, error in zip(bad, errors):
            self.assertEqual(list(error), ["error"], (request, error))
        self.assertEqual(errors[1]["error"], "request: line: expected a JSON object, found 3")
        self.assertIn("found foo", errors[4]["error"])
        self.assertEqual(last["text"], self.lines({"content": "one"}, {"content": "two"})[1]["text"])

    def test_too_long_for_the_context(self):
        first, error, last = self.lines({"content": "one"}, {"content": "y" * 2000}, {"messages": [{"role": "user", "content": "one"}]})
        self.assertIn("but the context holds", error["error"])
        self.assertEqual(last["text"], first["text"])

    def test_a_prompt_is_refused(self):
        self.assertIn("JSON lines", refused("run", "-m", MODEL, "--chat", "--json", "x", status=2))


class Terminal(unittest.TestCase):
    """On a pseudo-terminal, as a person sees it."""

    def setUp(self):
        self.pid, self.tty = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", XDG_STATE_HOME=str(WORK / "state"), HOME=str(WORK))
            try:
                os.execv(PROGRAM, [str(PROGRAM), "run", "--chat", "--seed", "1", *self.arguments()])
            finally:
                os._exit(127)  # no such program: this copy of the tests must not run on
        self.seen = ""

    def arguments(self):
        # The long model's answers fill a quarter of a million tokens.
        return ["-m", str(LONG), "-n", "0", "--temperature", "0"] if "stops_an_answer" in self.id() else ["-m", str(MODEL), "-n", "5"]

    def tearDown(self):
        os.close(self.tty)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def wait_for(self, pattern, seconds=60):
        """Reads until the pattern has appeared; forgets what was read up to there."""
        end = time.monotonic() + seconds
        while True:
            match = re.search(pattern, self.seen)
            if match:
                text, self.seen = self.seen[:match.end()], self.seen[match.end():]
                return text
            if time.monotonic() > end:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
            if select.select([self.tty], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.tty, 4096).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"the program ended; no {pattern!r} in {self.seen!r}") from None

    def send(self, text):
        os.write(self.tty, text.encode())

    def leave(self):
        """Ctrl-D until the program ends: one typed before the prompt reads is lost, as in every line editor."""
        for _ in range(30):
            self.send("\x04")
            try:
                return self.wait_for_exit(2)
            except AssertionError:
                continue
        raise AssertionError(f"the program did not end after Ctrl-D; seen {self.seen!r}")

    def wait_for_exit(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.tty], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.tty, 4096).decode(errors="replace")
                except OSError:
                    pass
        raise AssertionError("the program did not end")

    def test_a_conversation_with_history(self):
        self.wait_for("> ")
        self.send("hello\n")
        self.wait_for(r"> ")
        self.send("\x1b[A\n")  # arrow up: the last line again
        self.wait_for("hello")
        self.wait_for("> ")
        self.send("/stats\n")
        self.wait_for("4 messages")
        self.wait_for("> ")
        self.assertEqual(self.leave(), 0)
        history = WORK / "state/qnext/history"
        self.assertIn("hello", history.read_text())
        self.assertEqual(history.stat().st_mode & 0o777, 0o600)

    def test_end_of_file_typed_during_an_answer(self):
        self.wait_for("> ")
        self.send("\0")  # what the terminal makes of a Ctrl-D that nobody was reading
        self.assertEqual(self.wait_for_exit(), 0)

    def test_interrupt_at_the_prompt(self):
        self.wait_for("> ")
        self.send("unfinished\x03")
        self.wait_for("Ctrl-C again")
        self.wait_for("> ")
        self.send("\x03")
        self.assertEqual(self.wait_for_exit(), 0)

    def test_interrupt_stops_an_answer(self):
        self.wait_for("> ")
        self.send("hello\n")
        self.wait_for("hello\r\n")
        self.wait_for(r"(?s).{200}")  # well inside the answer: the editor's own last strokes are fewer
        self.send("\x03")
        self.wait_for(r"\[stopped by Ctrl-C\]")
        self.wait_for("> ")
        self.send("/stats\n")
        self.wait_for("2 messages")
        self.wait_for("> ")
        self.assertEqual(self.leave(), 0)


class Interrupt(unittest.TestCase):
    def test_single_turn(self):
        with subprocess.Popen([PROGRAM, "run", "-m", LONG, "-n", "0", "--temperature", "0", "x"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            process.stdout.read(100)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertIn("[stopped by Ctrl-C]", err.decode())
        self.assertIn("[prompt: 1 tokens", err.decode())


class Logits(unittest.TestCase):
    def write(self, name, model, tokens, *arguments):
        ids = WORK / f"{name}.txt"
        ids.write_text(" ".join(map(str, tokens)))
        output = WORK / f"{name}.safetensors"
        qnext("logits", "-m", model, "--tokens-file", ids, "-o", output, *arguments)
        return tiny_model.read_safetensors(output)

    def test_golden_logits_whole_and_in_pieces(self):
        expected = tiny_model.read_safetensors(GOLDEN / "base/expected.safetensors")
        tokens = [int.from_bytes(expected["tokens"][2][i:i + 4], "little") for i in range(0, len(expected["tokens"][2]), 4)]
        for chunk in ([], ["--chunk", 64], ["--chunk", 7], ["--chunk", 1]):
            ours = self.write("golden", GOLDEN / "base", tokens, "--mtp", *chunk)
            for name in ("logits", "mtp_logits"):
                self.assertEqual(ours[name][:2], ("F32", expected[name][1]))
                error = relative_rms(tiny_model.floats(ours[name][2]), tiny_model.floats(expected[name][2]))
                self.assertLess(error, 2e-3, (name, chunk))

    def test_text(self):
        output = WORK / "text.safetensors"
        report = json.loads(qnext("logits", "-m", MODEL, "--text", "abc", "-o", output, "--json")[0])
        self.assertEqual((report["tokens"], report["vocab_size"]), (3, 320))
        same = self.write("ids", MODEL, [97, 98, 99])
        self.assertEqual(tiny_model.read_safetensors(output)["logits"], same["logits"])

    def test_one_token_has_no_mtp_rows(self):
        self.assertEqual(self.write("one", GOLDEN / "base", [5], "--mtp")["mtp_logits"][1], [0, 160])

    def test_refusals(self):
        ids = WORK / "bad.txt"
        arguments = ("logits", "-m", GOLDEN / "base", "-o", WORK / "bad.safetensors", "--tokens-file", ids)
        self.assertIn("bad.txt", refused(*arguments))
        for text, message in (("1 2 160", "token 2 is 160, but the model's vocabulary has the ids 0 to 159"),
                              ("1 two", 'token 1: expected a token id, found "two"'),
                              ("1 -2", 'token 1: expected a token id, found "-2"'),
                              ("99999999999", "token 0: expected a token id"),
                              (" \n", "there are no tokens"),
                              ("1 " * 1025, "the prompt has 1025 tokens, but the context holds 1024")):
            ids.write_text(text)
            self.assertIn(message, refused(*arguments))
        ids.write_text("1 2 3")
        self.assertIn("not enough memory", refused(*arguments, "--memory-limit", "100K"))
        self.assertIn("has no MTP module", refused("logits", "-m", GOLDEN / "f32", "--tokens-file", ids, "--mtp", "-o", WORK / "x"))
        refused("logits", "-m", GOLDEN / "base", "--tokens-file", ids, "-o", "/nowhere/out.safetensors")
        self.assertFalse((WORK / "bad.safetensors").exists())


class Kld(unittest.TestCase):
    def test_a_known_difference(self):
        """Against itself: none. With a head of zeros the other model's distribution is uniform, so the divergence of a position is
        log(vocabulary) minus the entropy that the base's logits give."""
        file = WORK / "kld.txt"
        file.write_text("The quick brown fox.")
        same = json.loads(qnext("kld", "--base", MODEL, "-m", MODEL, "-f", file, "--context", 8, "--json")[0])
        self.assertEqual((same["positions"], same["same_top"]), (20, 1))
        self.assertLess(same["kld"]["max"], 1e-9)
        self.assertEqual(same["perplexity_base"], same["perplexity_model"])

        tensors = tiny_model.read_safetensors(MODEL / "model.safetensors")
        uniform = WORK / "uniform"
        shutil.copytree(MODEL, uniform)
        dtype, shape, data = tensors["lm_head.weight"]
        blob = (uniform / "model.safetensors").read_bytes()
        at = blob.index(bytes(data))
        (uniform / "model.safetensors").write_bytes(blob[:at] + bytes(len(data)) + blob[at + len(data):])
        report = json.loads(qnext("kld", "--base", MODEL, "-m", uniform, "-f", file, "--json")[0])
        ids, output = WORK / "kld_ids.txt", WORK / "kld.safetensors"
        ids.write_text(" ".join(map(str, file.read_bytes())))
        qnext("logits", "-m", MODEL, "--tokens-file", ids, "-o", output)
        rows = tiny_model.floats(tiny_model.read_safetensors(output)["logits"][2])
        expected = []
        for i in range(20):
            row = rows[i * 320:(i + 1) * 320]
            total = max(row) + math.log(sum(math.exp(x - max(row)) for x in row))
            expected.append(math.log(320) + sum(math.exp(x - total) * (x - total) for x in row))
        self.assertAlmostEqual(report["kld"]["mean"], sum(expected) / 20, places=5)
        self.assertAlmostEqual(report["kld"]["max"], max(expected), places=5)
        self.assertAlmostEqual(report["perplexity_model"], 320, places=3)
        self.assertIn("No such file", refused("kld", "--base", MODEL, "-m", MODEL, "-f", "/nowhere"))


class Bench(unittest.TestCase):
    def test_every_figure_has_its_bound(self):
        report = json.loads(qnext("bench", "-m", MODEL, "--prompt", 48, "--context", "0,200", "--batch", "1,2", "--groups", 1, "--seconds", 1,
                                  "--probe", 0, "--profile", "--json")[0])
        self.assertEqual([entry["tokens"] for entry in report["prefill"]], [48])
        self.assertEqual([(entry["batch"], entry["context"]) for entry in report["decode"]], [(1, 0), (1, 200), (2, 0), (2, 200)])
        for entry in report["prefill"] + report["decode"]:
            self.assertGreater(entry["tokens_per_second"], 0)
            self.assertGreater(entry["of_bound"], 0)
            self.assertEqual(entry["groups_dropped"], 0)
            self.assertIn("attention", [operation["operation"] for operation in entry["profile"]])
        self.assertGreater(report["decode"][1]["bytes"], report["decode"][0]["bytes"])  # keys and values
        self.assertGreater(report["memory"]["peak_bytes"], 0)
        text = qnext("bench", "-m", MODEL, "--prompt", 8, "--context", 0, "--groups", 1, "--seconds", 0.1)[0]
        self.assertIn("prompt of 8", text)
        self.assertIn("the model was made for", refused("bench", "-m", MODEL, "--prompt", 100000))


class Perplexity(unittest.TestCase):
    def test_equals_the_logits(self):
        file = WORK / "text.txt"
        file.write_text("The quick brown fox. Grüße!")
        report = json.loads(qnext("perplexity", "-m", MODEL, "-f", file, "--context", 16, "--json")[0])
        tokens = list(file.read_bytes())
        nats, scored = 0.0, 0
        for begin in range(0, len(tokens), 16):
            window = tokens[begin:begin + 16]
            output = WORK / "window.safetensors"
            ids = WORK / "window.txt"
            ids.write_text(" ".join(map(str, window)))
            qnext("logits", "-m", MODEL, "--tokens-file", ids, "-o", output)
            rows = tiny_model.floats(tiny_model.read_safetensors(output)["logits"][2])
            for i, target in enumerate(window[1:]):
                row = rows[i * 320:(i + 1) * 320]
                nats += math.log(sum(math.exp(x - max(row)) for x in row)) + max(row) - row[target]
                scored += 1
        self.assertEqual((report["scored_tokens"], report["scored_bytes"], report["windows"]), (scored, scored, 2))
        self.assertAlmostEqual(report["nll_per_token"], nats / scored, places=5)
        self.assertAlmostEqual(report["perplexity"], math.exp(nats / scored), delta=1e-3 * report["perplexity"])
        self.assertAlmostEqual(report["bits_per_byte"], nats / scored / math.log(2), places=5)
        self.assertIn("perplexity ", qnext("perplexity", "-m", MODEL, "-f", file)[0])

    def test_refusals(self):
        self.assertIn("/nowhere", refused("perplexity", "-m", MODEL, "-f", "/nowhere"))
        self.assertIn("at least 2 tokens", refused("perplexity", "-m", MODEL, "-f", "-", stdin="x"))


class Tokenize(unittest.TestCase):
    def test_encode_and_decode(self):
        out, _ = qnext("tokenize", "-m", MODEL, "a<|im_end|>")
        self.assertEqual(out, '      97  "a"\n     258  "<|im_end|>"\n')
        self.assertEqual(qnext("tokenize", "-m", MODEL, "--ids", "ab")[0], "97 98\n")
        self.assertEqual(json.loads(qnext("tokenize", "-m", MODEL, "--json", "--plain", "<|im_end|>")[0])["count"], 10)
        self.assertEqual(qnext("tokenize", "-m", MODEL, "--decode", "97, 258 98")[0], "a<|im_end|>b\n")
        ids = qnext("tokenize", "-m", MODEL, "--ids", stdin="Grüße 😀")[0]
        self.assertEqual(qnext("tokenize", "-m", MODEL, "-d", stdin=ids)[0], "Grüße 😀\n")

    def test_refusals(self):
        self.assertIn('"x" is not a token id', refused("tokenize", "-m", MODEL, "-d", "1 x"))
        self.assertIn("token id 261 is out of range", refused("tokenize", "-m", MODEL, "-d", "261"))
        self.assertIn("tokenizer.json", refused("tokenize", "-m", GOLDEN / "base", "x"))


class Inspect(unittest.TestCase):
    def test_report(self):
        report = json.loads(qnext("inspect", GOLDEN / "base", "--json", "--context", 1000, "--tensors")[0])
        self.assertEqual(report["architecture"]["layers"], 4)
        self.assertTrue(report["architecture"]["mtp"])
        self.assertEqual(sum(t["bytes"] for t in report["tensors"]), sum(report["bytes_by_type"].values()))
        memory = report["memory"]
        self.assertEqual(memory["context"], 1000)
        self.assertEqual(memory["kv_at_context"], 1000 * memory["kv_per_token"])
        self.assertLess(report["parameters"]["active"], report["parameters"]["total"])
        text = qnext("inspect", GOLDEN / "base", "--tensors")[0]
        self.assertIn("3 Gated DeltaNet, 1 gated attention; MTP module", text)
        self.assertIn("model.layers.0.linear_attn.A_log", text)

    def test_refuses_a_broken_checkpoint(self):
        broken = WORK / "broken_model"
        broken.mkdir()
        (broken / "config.json").write_text((GOLDEN / "base/config.json").read_text())
        (broken / "model.safetensors").write_bytes((GOLDEN / "base/model.safetensors").read_bytes()[:1000])
        self.assertIn("model.safetensors", refused("inspect", broken))
        (broken / "config.json").write_text("{")
        self.assertIn("config.json", refused("inspect", broken))


class TrainingData(unittest.TestCase):
    """A tokenizer from texts, the texts into shards, and what is in those."""

    @classmethod
    def setUpClass(cls):
        cls.directory = WORK / "training_data"
        cls.directory.mkdir()
        cls.chats = cls.directory / "chats.jsonl"
        with cls.chats.open("w") as file:
            for i in range(60):
                turns = [{"role": role, "content": f"{role} counts to {i} <|im_end|>"} for role in ("user", "assistant") * 4]
                file.write(json.dumps({"messages": turns[: 2 + 2 * (i % 4)]}) + "\n")
        cls.story = cls.directory / "story.txt"
        cls.story.write_text("The keeper lit the lamp. " * 40)
        cls.tokenizer = cls.directory / "tokenizer"
        out, _ = qnext("tokenizer", "train", "--vocab-size", 290, "-i", cls.chats, cls.story, "-o", cls.tokenizer)
        assert out.startswith("290 tokens: 256 bytes, 25 learned, 9 special"), out

    def pack(self, name, *arguments, **more):
        return qnext("data", "pack", "--tokenizer", self.tokenizer, "-o", self.directory / name, *arguments, **more)

    def test_tokenizer_is_read_by_tokenize(self):
        text = "The keeper counts <|im_end|>"
        ids = qnext("tokenize", "-m", self.tokenizer, "--ids", text)[0].split()
        self.assertEqual(ids[-1], "283")
        self.assertLess(len(ids), len(text) // 2)
        self.assertEqual(qnext("tokenize", "-m", self.tokenizer, "--decode", " ".join(ids))[0], text + "\n")

    def test_pack_and_inspect(self):
        report = json.loads(self.pack("a", self.chats, self.story, "--json")[0])
        self.assertEqual((report["documents"], report["skipped"], report["vocab_size"]), (61, 0, 290))
        facts = json.loads(qnext("data", "inspect", self.directory / "a", "--json", "--verify")[0])
        for key in ("documents", "tokens", "targets"):
            self.assertEqual(facts[key], report[key])
        self.assertTrue(facts["verified"])
        self.pack("b", self.chats, self.story, "--threads", 3)
        self.pack("c", self.chats, self.story, "--seed", 5)
        shards = [(self.directory / name / "shard-00000.tokens").read_bytes() for name in "abc"]
        self.assertEqual(shards[0], shards[1])
        self.assertNotEqual(shards[0], shards[2])
        self.assertEqual(sorted(p.name for p in (self.directory / "a").iterdir()), ["dataset.json", "shard-00000.tokens"])
        shown = qnext("data", "inspect", self.directory / "a", "-n", 61, "-m", self.tokenizer)[0]
        self.assertRegex(shown, r'context +\d+  "<\|im_start\|>user.x0auser counts to 7 <\|im_end\|><\|im_end\|>')
        self.assertRegex(shown, r'target +\d+  "assistant counts to 7 <\|im_end\|><\|im_end\|>"')
        self.assertIn("<|endoftext|>", shown)

    def test_bad_input(self):
        bad = self.directory / "bad.jsonl"
        bad.write_text('{"text": "fine"}\n{"text": 1}\n{"messages": [{"role": "user", "content": "x"}]}\n')
        pack = ("data", "pack", "--tokenizer", self.tokenizer, "-o", self.directory / "bad")
        self.assertIn("bad.jsonl: line 2: text: expected a string", refused(*pack, bad))
        _, messages = qnext(*pack, bad, "--skip-bad")
        self.assertIn("bad.jsonl: line 3: messages: expected one of the assistant", messages)
        self.assertIn("holds a data set already", refused(*pack, bad))
        self.assertIn("no such file", refused(*pack, self.directory / "absent"))
        self.assertIn("tokenizer.json", refused("data", "pack", "--tokenizer", WORK, "-o", WORK / "x", bad))
        empty = self.directory / "empty.jsonl"
        empty.write_text("")
        self.assertIn("no documents", refused(*pack, empty, "--overwrite"))
        self.assertIn("found 100", refused("tokenizer", "train", "--vocab-size", 100, "-i", bad, "-o", WORK / "t"))
        self.assertIn("hold no text", refused("tokenizer", "train", "--vocab-size", 300, "-i", empty, "-o", WORK / "t"))
        self.assertIn("no dataset.json", refused("data", "inspect", WORK))
        for arguments in (["data"], ["tokenizer"], ["data", "pack"], ["data", "fly"], ["tokenizer", "train", "-o", "x"]):
            self.assertIn("--help", refused(*arguments, status=2))

    def test_a_changed_shard_is_refused(self):
        self.pack("changed", self.chats)
        shard = self.directory / "changed/shard-00000.tokens"
        data = bytearray(shard.read_bytes())
        data[200] ^= 1
        shard.write_bytes(data)
        self.assertIn("checksum of the tokens", refused("data", "inspect", shard.parent, "--verify"))
        data[30] ^= 1
        shard.write_bytes(data)
        self.assertIn("header checksum", refused("data", "inspect", shard.parent))
        shard.write_bytes(data[:-8])
        self.assertIn("shard-00000.tokens", refused("data", "inspect", shard.parent))

    def test_full_disk(self):
        """A file size limit stands for it: nothing is left under a name, and the message says where."""
        big = self.directory / "big.jsonl"
        big.write_text("".join(json.dumps({"text": f"{i} " * 2000}) + "\n" for i in range(100)))
        out = self.directory / "full"
        done = subprocess.run(["bash", "-c", 'ulimit -f 64; exec "$@"', "-", PROGRAM, "data", "pack", "--tokenizer",
                               self.tokenizer, "-o", out, big], capture_output=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write", done.stderr)
        self.assertEqual(list(out.iterdir()), [])


def main():
    global PROGRAM, GOLDEN, WORK, MODEL, LONG
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--golden", required=True, type=pathlib.Path)
    arguments, rest = parser.parse_known_args()
    PROGRAM, GOLDEN = arguments.program.resolve(), arguments.golden.resolve()
    os.environ.pop("QNEXT_MODEL", None)
    with tempfile.TemporaryDirectory(prefix="qnext-cli-") as work:
        WORK = pathlib.Path(work)
        MODEL = tiny_model.make(WORK / "model", GOLDEN / "f32")
        LONG = tiny_model.make(WORK / "long_model", GOLDEN / "f32", context=1 << 18, endless=True)
        unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
