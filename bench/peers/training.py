#!/usr/bin/env python3
"""Training beside PyTorch + transformers: tokens per second of whole AdamW steps, same shape, same tokens, same CPUs, in turns.

    training.py [--program build/release/bin/qnext] [--shape models/starter] [--rounds 2] [--steps 6] [--tokens 4096] [--length 512]

PyTorch runs in f32 and under bf16 autocast; transformers takes its own paths (no fla, no causal-conv1d on a CPU). A figure is the
median over the steps after the first two of each round, the ratio that of medians. Wants torch and transformers:
bench/peers/install.sh --torch, then bench/peers/.venv/bin/python bench/peers/training.py
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def torch_rounds(shape, arguments, autocast):
    import torch
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    config = Qwen3NextConfig(**{k: v for k, v in shape.items() if k not in ("architectures", "model_type", "transformers_version")})
    model = Qwen3NextForCausalLM(config).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = arguments.tokens // arguments.length
    seconds = []
    for _ in range(arguments.steps + 2):
        tokens = torch.randint(0, config.vocab_size, (rows, arguments.length))
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(input_ids=tokens, labels=tokens, output_router_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return [arguments.tokens / s for s in seconds[2:]]


def qnext_rounds(shape, arguments, work):
    keys = ("hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim linear_num_key_heads linear_num_value_heads "
            "linear_key_head_dim linear_value_head_dim num_experts num_experts_per_tok moe_intermediate_size "
            "shared_expert_intermediate_size vocab_size").split()
    lines = ["[run]", f'output = "{work}/run"', "[model]", f'tokenizer = "{work}/tokenizer"', "mtp_steps = 0"]
    lines += [f"{key} = {shape[key]}" for key in keys]
    lines += ["[data]", f'train = "{work}/data"', f"sequence_length = {arguments.length}", f"batch_tokens = {arguments.tokens}",
              f"micro_batch_tokens = {arguments.tokens}", "[optimizer]", "learning_rate = 1e-3", f"steps = {arguments.steps + 2}",
              "[checkpoint]", "every = 1000"]
    (work / "run.toml").write_text("\n".join(lines) + "\n")
    subprocess.run(["rm", "-rf", str(work / "run")], check=True)
    subprocess.run([arguments.program, "train", "--config", work / "run.toml"], capture_output=True, check=True)
    records = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [sum(r[f"{part}_seconds"] for part in ("data", "forward", "backward", "optimizer")) for r in records if r["kind"] == "step"]
    return [arguments.tokens / s for s in seconds[2:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "build/release/bin/qnext")
    parser.add_argument("--shape", type=pathlib.Path, default=ROOT / "models/starter", help="a model directory: its config.json")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "docs/model.md", help="what qnext trains on, repeated")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--length", type=int, default=512)
    arguments = parser.parse_args()
    shape = json.loads((arguments.shape / "config.json").read_text())
    results = {"qnext": [], "PyTorch f32": [], "PyTorch bf16 autocast": []}
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        text = arguments.text.read_text()
        (work / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(20)))
        for command in (["tokenizer", "train", "--vocab-size", 1024, "--input", work / "text.jsonl", "--out", work / "tokenizer"],
                        ["data", "pack", "--tokenizer", work / "tokenizer", "--out", work / "data", work / "text.jsonl"]):
            subprocess.run([arguments.program, *map(str, command)], check=True, capture_output=True)
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            for name, measure in (("qnext", lambda: qnext_rounds(shape, arguments, work)),
                                  ("PyTorch f32", lambda: torch_rounds(shape, arguments, False)),
                                  ("PyTorch bf16 autocast", lambda: torch_rounds(shape, arguments, True))):
                got = measure()
                print(f"  {name}: {', '.join(f'{x:.0f}' for x in got)} tokens/s", file=sys.stderr)
                results[name] += got
    ours = statistics.median(results["qnext"])
    for name, values in results.items():
        median = statistics.median(values)
        print(f"{name:24} {median:10.0f} tokens/s   qnext is {ours / median:5.2f} x")


if __name__ == "__main__":
    main()
