#!/usr/bin/env python3
"""LoRA as people use it: train, kill, resume, run, inspect, merge; and, where they are installed, PEFT and transformers on the same
files: they load what qnext trains, and qnext what they save.

    tests/train/lora_test.py --program build/release/bin/qnext [-k PATTERN]

The comparison needs the packages torch, transformers and peft (any of a system's Python); without them it is skipped.
"""
import argparse
import json
import math
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import train_test  # noqa: E402
from train_test import bytes_of, checkpoints, qnext, refused  # noqa: E402

try:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import peft
    import torch
    import transformers
except ImportError:
    peft = None

# What PEFT 0.21 puts adapters on in transformers 5: it takes the projections of any MLP for those of the stacked experts.
EVERYTHING = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "in_proj_ba", "out_proj", "shared_expert_gate"]
CONFIG = """
[run]
output = "{output}"
threads = 2
[model]
from = "{base}"
[lora]
rank = 4
{lora}
[data]
train = "{work}/train"
valid = "{work}/valid"
sequence_length = 64
batch_tokens = 256
micro_batch_tokens = 128
[optimizer]
learning_rate = 5e-3
steps = {steps}
warmup_steps = 2
[checkpoint]
every = 3
[evaluation]
every = 10
tokens = 512
"""


def work():
    return train_test.WORK


def write_config(name, base=None, steps=20, targets=None, more=""):
    path = work() / f"{name}.toml"
    lora = "" if targets is None else f"targets = {json.dumps(targets)}"
    path.write_text(CONFIG.format(output=work() / name, base=base or work() / "base", work=work(), steps=steps, lora=lora) + more)
    return path


def train(name, **more):
    qnext("train", "--quiet", "--config", write_config(name, **more))
    return checkpoints(name)[-1]


def tensors(path):
    """F32 tensors of a safetensors file, as (shape, list of floats)."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    found = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32", (name, entry)
        begin, end = entry["data_offsets"]
        found[name] = entry["shape"], struct.unpack_from(f"<{(end - begin) // 4}f", data, 8 + size + begin)
    return found


TOKENS = [random.Random(3).randrange(5, 250) for _ in range(90)]


def logits(*model):
    ids, out = work() / "ids.txt", work() / "logits.safetensors"
    ids.write_text(" ".join(map(str, TOKENS)))
    qnext("logits", *model, "--tokens-file", ids, "--output", out)
    return tensors(out)["logits"][1]


def relative_rms(a, b):
    assert len(a) == len(b)
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b))


class Runs(unittest.TestCase):
    def test_killed_anywhere_ends_with_the_same_bytes(self):
        expected = bytes_of(train("whole"))
        self.assertEqual({"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} - set(expected), set())
        self.assertNotIn("model.safetensors", expected)
        dice = random.Random(2)
        config, killed = write_config("killed"), 0
        while True:
            process = subprocess.Popen([train_test.PROGRAM, "train", "--quiet", "--config", config], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)
            try:
                process.communicate(timeout=dice.uniform(0.1, 1.0) if killed < 4 else 300)
                self.assertEqual(process.returncode, 0)
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.communicate()
                killed += 1
        got = bytes_of(checkpoints("killed")[-1])
        self.assertEqual(sorted(got), sorted(expected))
        for file, content in expected.items():
            self.assertTrue(got[file] == content, f"killed {killed} times: {file} differs")

    def test_runs_and_is_inspected(self):
        adapter = train("inspected")
        err = qnext("run", "--model", work() / "base", "--lora", adapter, "--temperature", 0, "--max-tokens", 6, "one two three")
        self.assertTrue(err[0].strip())
        text = qnext("inspect", adapter)[0]
        for part in ("LoRA", "rank 4", "alpha 8", str(work() / "base"), "in_proj_qkvz"):
            self.assertIn(part, text)
        stranger = work() / "stranger"
        shutil.copytree(adapter, stranger)
        config = json.loads((stranger / "adapter_config.json").read_text())
        (stranger / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "a\x1b[31mb"}))
        text = qnext("inspect", stranger)[0]
        self.assertNotIn("\x1b", text)
        self.assertIn("[31mb", text)
        report = json.loads(qnext("inspect", "--json", adapter)[0])
        self.assertEqual((report["rank"], report["modules"]["q_proj"]), (4, 1))
        self.assertIn("config.json", refused("run", "--model", adapter, "x"))
        self.assertIn("adapter_config.json", refused("run", "--model", work() / "base", "--lora", work() / "base", "x"))

    def test_sample_texts_come_from_the_adapter(self):
        qnext("train", "--quiet", "--config", write_config("samples", steps=10, more='prompts = ["one two"]\nsample_tokens = 4\n'))
        lines = [json.loads(line) for line in (work() / "samples" / "metrics.jsonl").read_text().splitlines()]
        self.assertTrue(any(line["kind"] == "samples" for line in lines), {line["kind"] for line in lines})

    def test_merged_equals_unmerged(self):
        adapter = train("merged", targets=["q_proj", "in_proj_qkvz", "in_proj_ba", "out_proj", "gate", "gate_proj", "up_proj", "down_proj"])
        out = work() / "merged-model"
        qnext("lora", "merge", "--base", work() / "base", "--adapter", adapter, "--out", out)
        base = logits("--model", work() / "base")
        with_adapter = logits("--model", work() / "base", "--lora", adapter)
        self.assertLess(relative_rms(logits("--model", out), with_adapter), 1e-5)
        self.assertGreater(relative_rms(with_adapter, base), 1e-3)
        # Everything else is what it was, the MTP module too.
        before, after = tensors(work() / "base" / "model.safetensors"), tensors(out / "model.safetensors")
        self.assertEqual(sorted(before), sorted(after))
        changed = {name for name in before if before[name] != after[name]}
        self.assertTrue(changed and all(any(part in name for part in ("proj", "mlp.gate")) and not name.startswith("mtp.") for name in changed), changed)
        self.assertIn("already exists", refused("lora", "merge", "--base", work() / "base", "--adapter", adapter, "--out", out))
        half = work() / "merged-half"
        qnext("lora", "merge", "--base", work() / "base", "--adapter", adapter, "--out", half, "--dtype", "bf16")
        self.assertLess(relative_rms(logits("--model", half), with_adapter), 0.03)

    def test_base_in_a_gguf_file(self):
        base = work() / "base.gguf"
        qnext("quantize", work() / "base", base, "--recipe", "Q8_0")
        adapter = train("of-gguf", base=base)
        self.assertEqual(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"], str(base))
        with_adapter = logits("--model", base, "--lora", adapter, "--activations", "f32")
        out = work() / "merged.gguf"
        qnext("lora", "merge", "--base", base, "--adapter", adapter, "--out", out, "--dtype", "f32")
        self.assertLess(relative_rms(logits("--model", out), with_adapter), 1e-5)
        self.assertIn("config.json", refused("lora", "merge", "--base", base, "--adapter", adapter, "--out", work() / "no-directory"))
        self.assertFalse((work() / "no-directory").exists())

    def test_what_does_not_fit_is_refused(self):
        err = refused("train", "--config", write_config("targets", targets=["q_proj", "qproj"]))
        self.assertIn("targets.toml:9: lora.targets", err)
        adapter = work() / "spoiled"
        shutil.copytree(train("to-spoil", steps=3), adapter)
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
        err = refused("lora", "merge", "--base", work() / "base", "--adapter", adapter, "--out", work() / "spoiled-out")
        self.assertIn("adapter_model.safetensors", err)
        self.assertIn("expected [8, 32], found [4, 32]", err)
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
        self.assertIn("use_dora", refused("run", "--model", work() / "base", "--lora", adapter, "x"))
        self.assertFalse((work() / "spoiled-out").exists())


@unittest.skipIf(peft is None, "needs torch, transformers and peft")
class Peft(unittest.TestCase):
    def model(self, directory=None):
        torch.manual_seed(1)
        return transformers.Qwen3NextForCausalLM.from_pretrained(directory or work() / "base", dtype=torch.float32).eval()

    @staticmethod
    def logits(model):
        with torch.no_grad():
            return model(torch.tensor([TOKENS]), use_cache=False).logits[0].flatten().tolist()

    def test_peft_loads_what_was_trained(self):
        adapter = train("for-peft", targets=EVERYTHING)
        model = peft.PeftModel.from_pretrained(self.model(), adapter)
        names = {name for name, _ in model.named_parameters() if "lora_" in name}
        self.assertEqual({name.replace(".default", "") for name in names}, set(tensors(adapter / "adapter_model.safetensors")))
        error = relative_rms(logits("--model", work() / "base", "--lora", adapter), self.logits(model))
        print(f"logits of an adapter of qnext, in PEFT and in qnext: relative RMS {error:.2e}")
        self.assertLess(error, 1e-4)
        self.assertGreater(relative_rms(self.logits(self.model()), self.logits(model)), 1e-2)
        out = work() / "for-peft-merged"
        qnext("lora", "merge", "--base", work() / "base", "--adapter", adapter, "--out", out)
        merged = self.logits(model.merge_and_unload())
        self.assertLess(relative_rms(self.logits(self.model(out)), merged), 1e-4)

    def test_qnext_loads_what_peft_saved(self):
        for name, options in {"plain": {}, "rslora": {"use_rslora": True},
                              "patterns": {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"q_proj": 1, "layers.0.linear_attn.out_proj": 32}}}.items():
            with self.subTest(name):
                config = peft.LoraConfig(r=6, lora_alpha=9, target_modules=EVERYTHING, init_lora_weights=False, task_type="CAUSAL_LM", **options)
                model = peft.get_peft_model(self.model(), config).eval()
                adapter = work() / f"peft-{name}"
                model.save_pretrained(adapter)
                error = relative_rms(logits("--model", work() / "base", "--lora", adapter), self.logits(model))
                print(f"logits of an adapter of PEFT ({name}): relative RMS {error:.2e}")
                self.assertLess(error, 1e-4)
                self.assertGreater(relative_rms(self.logits(self.model()), self.logits(model)), 1e-2)

    def test_what_cannot_be_honoured_is_refused(self):
        for name, options, field in (("dora", {"use_dora": True}, "use_dora"), ("bias", {"bias": "lora_only"}, "bias"),
                                     ("saved", {"modules_to_save": ["lm_head"]}, "modules_to_save"),
                                     ("stacked", {"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters")):
            with self.subTest(name):
                model = peft.get_peft_model(self.model(), peft.LoraConfig(r=2, target_modules=["q_proj"], **options))
                adapter = work() / f"peft-{name}"
                model.save_pretrained(adapter)
                self.assertIn(field, refused("run", "--model", work() / "base", "--lora", adapter, "x"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    arguments, rest = parser.parse_known_args()
    train_test.PROGRAM = pathlib.Path(arguments.program).resolve()
    with tempfile.TemporaryDirectory() as directory:
        train_test.WORK = pathlib.Path(directory)
        train_test.make_data()
        qnext("train", "--quiet", "--config", train_test.write_config("from", steps=12))
        shutil.copytree(checkpoints("from")[-1], work() / "base")
        unittest.main(argv=[sys.argv[0], *rest])
