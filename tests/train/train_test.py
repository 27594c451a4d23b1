#!/usr/bin/env python3
"""`qnext train` as people use it: a run that is killed and goes on ends with the same bytes; what is wrong is refused by name.

    tests/train/train_test.py --program build/release/bin/qnext [--kills 20] [-k PATTERN]
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM = WORK = None  # set by main
KILLS = 4

CONFIG = """
[run]
output = "{output}"
threads = 2
[model]
tokenizer = "{work}/tokenizer"
mtp_steps = 1
hidden_size = 32
num_hidden_layers = 4
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
linear_num_key_heads = 1
linear_num_value_heads = 2
linear_key_head_dim = 16
linear_value_head_dim = 16
num_experts = 8
num_experts_per_tok = 2
moe_intermediate_size = 16
shared_expert_intermediate_size = 16
[data]
train = "{work}/train"
valid = "{work}/valid"
sequence_length = 64
batch_tokens = 256
micro_batch_tokens = 128
[optimizer]
kind = "{optimizer}"
learning_rate = 3e-3
steps = {steps}
warmup_steps = 4
[checkpoint]
every = 3
keep_last = 2
[evaluation]
every = 7
tokens = 512
"""


def qnext(*arguments, expect=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, timeout=300, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    if done.returncode != expect:
        raise AssertionError(f"qnext {' '.join(map(str, arguments))}: exit status {done.returncode}, expected {expect}\n{err}")
    return out, err


def refused(*arguments):
    err = qnext(*arguments, expect=1)[1]
    assert "qnext: error: " in err, err
    return err[err.index("qnext: error: "):]


def write_config(name, change=lambda text: text, steps=30, optimizer="adamw"):
    path = WORK / f"{name}.toml"
    path.write_text(change(CONFIG.format(output=WORK / name, work=WORK, steps=steps, optimizer=optimizer)))
    return path


def checkpoints(name):
    return sorted(p for p in (WORK / name).iterdir() if p.name.startswith("step-"))


def bytes_of(directory):
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


def make_data():
    """Documents of a small language: numbers counted in words, some longer than many rows of a lane."""
    words = "zero one two three four five six seven eight nine ten".split()
    dice = random.Random(5)
    for name, count in (("train", 60), ("valid", 8)):
        with open(WORK / f"{name}.jsonl", "w", encoding="utf-8") as out:
            for _ in range(count):
                start, step = dice.randrange(11), dice.randrange(1, 4)
                length = dice.choice([6, 20, 50, 300])
                out.write(json.dumps({"text": " ".join(words[(start + i * step) % 11] for i in range(length)) + "."}) + "\n")
    qnext("tokenizer", "train", "--vocab-size", 300, "--input", WORK / "train.jsonl", "--out", WORK / "tokenizer")
    for name in ("train", "valid"):
        qnext("data", "pack", "--tokenizer", WORK / "tokenizer", "--out", WORK / name, WORK / f"{name}.jsonl")


class Resume(unittest.TestCase):
    def test_killed_anywhere_ends_with_the_same_bytes(self):
        for optimizer in ("adamw", "muon"):
            start = time.monotonic()
            qnext("train", "--config", write_config(f"whole-{optimizer}", optimizer=optimizer))
            seconds = time.monotonic() - start
            expected = bytes_of(checkpoints(f"whole-{optimizer}")[-1])
            self.assertIn("model.safetensors", expected)
            dice = random.Random(11)
            for kill in range(KILLS if optimizer == "adamw" else 1):
                name = f"killed-{optimizer}-{kill}"
                config = write_config(name, optimizer=optimizer)
                killed = 0
                while True:
                    process = subprocess.Popen([PROGRAM, "train", "--quiet", "--config", config], stdout=subprocess.DEVNULL,
                                               stderr=subprocess.PIPE)
                    try:
                        # At most three times: then it may end.
                        process.communicate(timeout=dice.uniform(0.05, max(0.2, 0.7 * seconds)) if killed < 3 else 300)
                        self.assertEqual(process.returncode, 0)
                        break
                    except subprocess.TimeoutExpired:
                        os.kill(process.pid, signal.SIGKILL)
                        process.communicate()
                        killed += 1
                got = bytes_of(checkpoints(name)[-1])
                self.assertEqual(sorted(got), sorted(expected))
                for file, content in expected.items():
                    self.assertTrue(got[file] == content, f"{optimizer}, run {kill}, killed {killed} times: {file} differs")
                shutil.rmtree(WORK / name)

    def test_threads_change_nothing(self):
        qnext("train", "--quiet", "--config", write_config("threads-2", steps=6))
        qnext("train", "--quiet", "--config", write_config("threads-1", lambda t: t.replace("threads = 2", "threads = 1"), steps=6))
        self.assertTrue(bytes_of(checkpoints("threads-1")[-1])["model.safetensors"] ==
                        bytes_of(checkpoints("threads-2")[-1])["model.safetensors"])

    def test_torn_checkpoint_is_noticed_and_the_one_before_taken(self):
        config = write_config("torn", steps=9)
        qnext("train", "--quiet", "--config", config)
        newest = checkpoints("torn")[-1]
        expected = bytes_of(newest)
        with open(newest / "training_state.safetensors", "r+b") as file:
            file.seek(4000)
            byte = file.read(1)
            file.seek(4000)
            file.write(bytes([byte[0] ^ 1]))
        err = qnext("train", "--config", config)[1]
        self.assertIn(newest.name, err)
        self.assertTrue(bytes_of(checkpoints("torn")[-1])["model.safetensors"] == expected["model.safetensors"])


class Learning(unittest.TestCase):
    def test_learns_and_runs(self):
        err = qnext("train", "--config", write_config("learns", steps=150))[1]
        losses = [float(line.split("validation loss ")[1].split(",")[0].split(" ")[0]) for line in err.splitlines() if "validation loss" in line]
        self.assertLess(losses[-1], 0.6 * losses[0], losses)
        out = qnext("run", "-m", checkpoints("learns")[-1], "--temperature", 0, "--max-tokens", 8, "one two three four five six")[0]
        self.assertTrue(out.strip())


class Refusals(unittest.TestCase):
    def refused_config(self, name, change, *expected):
        err = refused("train", "--config", write_config(name, change))
        for text in expected:
            self.assertIn(text, err)

    def test_configuration(self):
        self.refused_config("unknown", lambda t: t.replace("hidden_size = 32", "hiden_size = 32"), "unknown.toml", "hiden_size")
        self.refused_config("type", lambda t: t.replace("hidden_size = 32", 'hidden_size = "wide"'), "type.toml", "hidden_size")
        self.refused_config("shape", lambda t: t.replace("num_experts_per_tok = 2", "num_experts_per_tok = 9"), "num_experts_per_tok")
        self.refused_config("syntax", lambda t: t.replace("[model]", "[model"), "syntax.toml")
        self.refused_config("length", lambda t: t.replace("sequence_length = 64", "sequence_length = 100000").replace("batch_tokens = 256", "batch_tokens = 100000"), "sequence_length", "tokens")
        self.refused_config("nowhere", lambda t: t.replace("/train\"", "/nowhere\""), "nowhere")

    def test_vocabulary_of_the_data(self):
        self.refused_config("vocabulary", lambda t: t.replace("hidden_size = 32", "hidden_size = 32\nvocab_size = 64"), "vocab")

    def test_checkpoint_of_another_shape(self):
        qnext("train", "--quiet", "--config", write_config("other", steps=3))
        err = refused("train", "--config", write_config("other", lambda t: t.replace("hidden_size = 32", "hidden_size = 48"), steps=6))
        self.assertIn("other", err)

    def test_not_finite_names_the_layer_and_the_last_good_checkpoint(self):
        err = refused("train", "--quiet", "--config",
                      write_config("diverges", lambda t: t.replace("learning_rate = 3e-3", "learning_rate = 10").replace("steps = 30", "steps = 400")
                                   + "\n[loss]\nz_coefficient = 1e6\n"))
        self.assertIn("finite", err)

    def test_explain_is_a_configuration(self):
        text = qnext("train", "--explain")[0]
        for key in ("hidden_size", "learning_rate", "batch_tokens", "balance_coefficient", "mtp_weight"):
            self.assertIn(key, text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--kills", type=int, default=4, help="runs that are killed up to three times each")
    arguments, rest = parser.parse_known_args()
    PROGRAM, KILLS = pathlib.Path(arguments.program).resolve(), arguments.kills
    with tempfile.TemporaryDirectory() as work:
        WORK = pathlib.Path(work)
        make_data()
        unittest.main(argv=[sys.argv[0], *rest])
