#!/usr/bin/env python3
"""A Hugging Face directory through PyTorch and transformers in bf16: the figures of `qnext bench --json` that it can have.

    bench/peers/install.sh --torch
    build/release/bin/qnext synth --preset small --type BF16 /tmp/small
    bench/peers/.venv/bin/python bench/peers/transformers_bf16.py /tmp/small --prompt 512 --context 0,512

The model must fit into memory. Same gate and pinning as llama_cpp.py; contexts are really read.
"""

import argparse
import json
import os
import time

import torch
import transformers

from llama_cpp import Gate, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt", type=numbers, default=[512])
    parser.add_argument("--context", type=numbers, default=[0])
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--probe", type=float, default=0.06)
    arguments = parser.parse_args()
    gate = Gate(arguments.threads, arguments.probe, arguments.groups, arguments.seconds)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:arguments.threads])
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
    report = {"model": arguments.model, "backend": f"torch {torch.__version__}, transformers {transformers.__version__}",
              "threads": arguments.threads, "open_seconds": time.perf_counter() - start, "prefill": [], "decode": []}
    tokens = lambda count: torch.randint(model.config.vocab_size, (1, count))

    @torch.inference_mode()
    def timed(count, cache=None):
        begin = time.perf_counter()
        output = model(tokens(count), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - begin, output.past_key_values

    timed(1)
    report["first_token_seconds"] = time.perf_counter() - start
    for count in arguments.prompt:
        result = gate.measure(lambda: timed(count)[0])
        report["prefill"].append({"tokens": count, "tokens_per_second": count / result["seconds"], **result})
    for context in arguments.context:
        _, cache = timed(max(context, 1))
        result = gate.measure(lambda: sum(timed(1, cache)[0] for _ in range(4)) / 4)
        report["decode"].append({"context": context, "batch": 1, "tokens_per_second": 1 / result["seconds"], **result})
    report["memory"] = memory()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
