#!/usr/bin/env python3
"""Check a starter checkpoint with stock transformers and print samples.

    verify.py --model models/starter [--corpus corpus.jsonl]

1. The fast modules of train.py, run in fp32, give the logits of the stock modules.
2. With --corpus: loss of the saved (bf16) weights on the held-out documents, stock modules in fp32.
3. Answers to a few prompts with the checkpoint's own generation settings.
"""
import argparse

import torch
from transformers import AutoTokenizer, Qwen3NextForCausalLM

import train

PROMPTS = ["Write a short story about a lighthouse.", "Write a short story about a fox.", "Tell me a story about a robot.",
           "What is a garden?", "Hello! Who are you?"]

PROBE = "Once upon a time, there was a fox who lived near a lighthouse. Every night it looked at the light. " * 8


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus")
    parser.add_argument("--eval-documents", type=int, default=160)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = Qwen3NextForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()

    if args.corpus:
        _, held_out = train.load_rows(args.corpus, tokenizer, 512, args.eval_documents, 1)
        workers = train.Workers(model, 1, 2, (None, held_out))
        print(f"eval loss of the saved weights: {workers.run(workers.EVAL, 0, len(held_out[0])):.4f}")

    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=400)
        print(f"\n> {prompt}\n{tokenizer.decode(out[0, ids['input_ids'].shape[1]:], skip_special_tokens=True)}")

    ids = tokenizer(PROBE, return_tensors="pt")["input_ids"]
    stock = model(input_ids=ids, use_cache=False).logits
    train.MM_DTYPE = torch.float32
    train.use_fast_modules()
    fast = model(input_ids=ids, use_cache=False).logits
    difference = (stock - fast).abs().max().item()
    print(f"\nlargest logit difference, fast modules in fp32 against stock: {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    main()
