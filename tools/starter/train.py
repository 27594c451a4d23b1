#!/usr/bin/env python3
"""Train the starter checkpoint (Qwen3NextForCausalLM) on CPU within a given number of minutes.

    train.py --corpus corpus.jsonl --model models/starter --work build/starter --minutes 75

`--model` already holds the tokenizer; the checkpoint, its card's numbers and loss.csv are written there. `--work` holds
the resumable state. The learning rate follows the clock, not the step count, so a run always ends fully decayed.
"""
import argparse
import csv
import json
import math
import multiprocessing
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, GenerationConfig, Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.models.qwen3_next import modeling_qwen3_next as hf

CONFIG = dict(
    hidden_size=256, num_hidden_layers=8, full_attention_interval=4, vocab_size=4096,
    num_attention_heads=4, num_key_value_heads=1, head_dim=64,
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=64, linear_value_head_dim=64, linear_conv_kernel_dim=4,
    num_experts=32, num_experts_per_tok=4, moe_intermediate_size=32, shared_expert_intermediate_size=128, norm_topk_prob=True,
    intermediate_size=512, router_aux_loss_coef=0.001, tie_word_embeddings=False, max_position_embeddings=262144, rms_norm_eps=1e-6,
    rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25),
)


# --- Faster forms of two HF modules. Same mathematics and parameters; only matmul inputs are rounded to bf16. ---------

MM_DTYPE = torch.bfloat16  # twice the fp32 rate on AVX512_BF16


class LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x2 = x.reshape(-1, x.shape[-1]).to(MM_DTYPE)
        w = weight.to(MM_DTYPE)
        ctx.save_for_backward(x2, w)
        return (x2 @ w.T).float().view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        x2, w = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1]).to(MM_DTYPE)
        return (g @ w).float().view(*grad.shape[:-1], -1), (g.T @ x2).float()


class ExpertsFunction(torch.autograd.Function):
    """All experts at once: sort the (token, expert) pairs by expert, run each expert on its slice, add up per token.

    HF's loop creates a whole gradient of the stacked weights for every expert; here each expert writes its own slice.
    """

    @staticmethod
    def forward(ctx, x, top_k_index, top_k_weights, gate_up, down):
        k = top_k_index.shape[1]
        order = top_k_index.reshape(-1).argsort()
        rows = order // k
        bounds = [0] + top_k_index.reshape(-1).bincount(minlength=gate_up.shape[0]).cumsum(0).tolist()
        gate_up, down = gate_up.to(MM_DTYPE), down.to(MM_DTYPE)
        xs = x.to(MM_DTYPE)[rows]
        hidden = torch.empty(len(rows), gate_up.shape[1], dtype=MM_DTYPE)
        for e, (a, b) in enumerate(zip(bounds, bounds[1:])):
            torch.mm(xs[a:b], gate_up[e].T, out=hidden[a:b])
        gate, up = hidden.chunk(2, dim=-1)
        act = F.silu(gate) * up
        ys = torch.empty(len(rows), x.shape[1], dtype=MM_DTYPE)
        for e, (a, b) in enumerate(zip(bounds, bounds[1:])):
            torch.mm(act[a:b], down[e].T, out=ys[a:b])
        weights = top_k_weights.reshape(-1)[order]
        place = order.argsort()  # where each (token, choice) pair went
        out = (ys[place].float().view(-1, k, x.shape[1]) * top_k_weights[..., None]).sum(1)
        ctx.bounds = bounds
        ctx.save_for_backward(xs, hidden, act, ys, weights, rows, place, gate_up, down)
        return out

    @staticmethod
    def backward(ctx, grad):
        xs, hidden, act, ys, weights, rows, place, gate_up, down = ctx.saved_tensors
        k = len(rows) // grad.shape[0]
        gs = grad.to(MM_DTYPE)[rows]
        d_weights = (gs.float() * ys.float()).sum(-1)[place].view(-1, k)
        gs = (gs * weights[:, None]).to(MM_DTYPE)
        d_gate_up, d_down = torch.zeros(gate_up.shape), torch.zeros(down.shape)
        d_act = torch.empty_like(act)
        spans = list(enumerate(zip(ctx.bounds, ctx.bounds[1:])))
        for e, (a, b) in spans:
            torch.mm(gs[a:b], down[e], out=d_act[a:b])
            d_down[e] = gs[a:b].T @ act[a:b]
        gate, up = hidden.chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        d_hidden = torch.cat([d_act * up * (sigmoid + silu * (1 - sigmoid)), d_act * silu], dim=-1)
        d_xs = torch.empty_like(xs)
        for e, (a, b) in spans:
            torch.mm(d_hidden[a:b], gate_up[e], out=d_xs[a:b])
            d_gate_up[e] = d_hidden[a:b].T @ xs[a:b]
        dx = d_xs[place].float().view(-1, k, xs.shape[1]).sum(1)
        return dx, None, d_weights, d_gate_up, d_down


def use_fast_modules():
    torch.nn.Linear.forward = lambda self, x: LinearFunction.apply(x, self.weight)
    hf.Qwen3NextExperts.forward = lambda self, x, index, weights: ExpertsFunction.apply(x, index, weights, self.gate_up_proj, self.down_proj)


# --- Data ---------------------------------------------------------------------------------------------------------------

def pack(documents, length, rng, pad):
    """Rows of whole documents, best fit within groups: no document is cut, and every row begins with a document."""
    rng.shuffle(documents)
    rows, bins = [], []
    for start in range(0, len(documents), 1024):
        bins = []
        for doc in sorted(documents[start:start + 1024], key=len, reverse=True):
            home = next((b for b in bins if len(b) + len(doc) <= length), None)
            if home is None:
                bins.append(home := [])
            home.extend(doc)
        rows += bins
    rng.shuffle(rows)
    out = np.full((len(rows), length), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, :len(row)] = row
    lengths = np.array([len(r) for r in rows])
    return torch.from_numpy(out), torch.from_numpy(lengths)


def load_rows(path, tokenizer, length, eval_documents, seed):
    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    documents = tokenizer(texts, add_special_tokens=False)["input_ids"]
    documents = [d for d in documents if len(d) <= length]
    rng = random.Random(seed)
    held_out, train = documents[:eval_documents], documents[eval_documents:]
    return pack(train, length, rng, tokenizer.pad_token_id), pack(held_out, length, rng, tokenizer.pad_token_id)


def labels_of(ids, lengths):
    return ids.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], -100)


# --- Model and optimizer ------------------------------------------------------------------------------------------------

def new_model(tokenizer):
    model = Qwen3NextForCausalLM(Qwen3NextConfig(**CONFIG, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    for module in model.modules():
        if isinstance(module, hf.Qwen3NextGatedDeltaNet):
            # FLA/Mamba-2 recipe: time steps log-uniform in [1e-3, 0.1], decay rates in [1, 16].
            dt = torch.exp(torch.empty_like(module.dt_bias).uniform_(math.log(1e-3), math.log(0.1))).clamp_min(1e-4)
            module.dt_bias.data = dt + torch.log(-torch.expm1(-dt))
            module.A_log.data = torch.empty_like(module.A_log).uniform_(1, 16).log()
            torch.nn.init.uniform_(module.conv1d.weight, -0.5, 0.5)
    return model


def new_optimizer(model, weight_decay):
    # Zero-centred norm weights decay like matrices; A_log, dt_bias and the gated norm (neutral value 1) do not.
    no_decay = [p for n, p in model.named_parameters() if n.endswith(("A_log", "dt_bias", "linear_attn.norm.weight"))]
    skip = {id(p) for p in no_decay}
    decay = [p for p in model.parameters() if id(p) not in skip]
    groups = [dict(params=decay, weight_decay=weight_decay), dict(params=no_decay, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)


class Workers:
    """Single-threaded processes that share the weights and take small batches of rows from one queue.

    On a machine that also does other work this is several times faster than one process with as many threads: threads
    meet at every operator, so one that is held up stops them all; processes meet once per step, and a slow one takes less.
    """

    TRAIN, EVAL, QUIT = range(3)

    def __init__(self, model, count, micro_batch, data):
        self.model, self.micro_batch, self.data = model, micro_batch, data
        self.parameters = list(model.parameters())
        model.share_memory()
        self.gradients = torch.zeros(count, sum(p.numel() for p in self.parameters)).share_memory_()
        self.sums = torch.zeros(count, 2, dtype=torch.float64).share_memory_()  # loss x tokens, tokens
        self.job = torch.zeros(3, dtype=torch.int64).share_memory_()  # kind, first row, rows
        context = multiprocessing.get_context("fork")  # before any backward: autograd's threads do not survive a fork
        self.next, self.barrier = context.Value("q", 0), context.Barrier(count)
        self.processes = [context.Process(target=self.serve, args=(i,), daemon=True) for i in range(1, count)]
        for process in self.processes:
            process.start()
        self.use_gradients(0)

    def use_gradients(self, worker):
        """Let autograd accumulate into this worker's row of the shared gradients."""
        self.worker, offset = worker, 0
        for p in self.parameters:
            p.grad = self.gradients[worker, offset:offset + p.numel()].view_as(p)
            offset += p.numel()

    def serve(self, worker):
        self.use_gradients(worker)
        while True:
            self.barrier.wait()
            if self.job[0] == self.QUIT:
                return
            self.work()
            self.barrier.wait()

    def work(self):
        kind, first, count = self.job.tolist()
        rows, lengths = self.data[kind]
        index = torch.arange(first, first + count) % len(rows)
        total = int(lengths[index].sum()) - count  # predicted tokens of the whole step
        loss_sum = tokens = 0
        while True:
            with self.next.get_lock():
                begin = self.next.value
                self.next.value += self.micro_batch
            if begin >= count:
                break
            part = index[begin:begin + self.micro_batch]
            ids, labels = rows[part], labels_of(rows[part], lengths[part])
            n = int(lengths[part].sum()) - len(part)
            with torch.set_grad_enabled(kind == self.TRAIN):
                out = self.model(input_ids=ids, use_cache=False, output_router_logits=kind == self.TRAIN)
                ce = F.cross_entropy(out.logits[:, :-1].reshape(-1, out.logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)
                if kind == self.TRAIN:
                    ((ce + self.model.config.router_aux_loss_coef * out.aux_loss) * (n / total)).backward()
            loss_sum, tokens = loss_sum + ce.item() * n, tokens + n
        self.sums[self.worker, 0], self.sums[self.worker, 1] = loss_sum, tokens

    def run(self, kind, first, count):
        """Do one job with all workers; mean loss per predicted token. Gradients are summed into worker 0's."""
        self.job[:] = torch.tensor([kind, first, count])
        self.next.value = 0
        self.barrier.wait()
        self.work()
        self.barrier.wait()
        if kind == self.TRAIN:
            self.gradients[0] += self.gradients[1:].sum(0)
        loss, tokens = self.sums.sum(0).tolist()
        return loss / tokens

    def close(self):
        self.job[0] = self.QUIT
        self.barrier.wait()
        for process in self.processes:
            process.join()


def save_checkpoint(model, tokenizer, path):
    """bf16 copy in `save_pretrained` form, beside the tokenizer."""
    copy = Qwen3NextForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.9, top_k=40, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|endoftext|>")])
    copy.save_pretrained(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--model", required=True, help="directory with the tokenizer; receives the checkpoint")
    parser.add_argument("--work", required=True, help="directory of the resumable state")
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4, help="rows per step")
    parser.add_argument("--micro-batch", type=int, default=2, help="rows per backward pass")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=60, help="steps")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--eval-every", type=int, default=100, help="steps")
    parser.add_argument("--eval-documents", type=int, default=160)
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--init", help="state.pt of an earlier run to start from (weights and moments; the clock starts anew)")
    parser.add_argument("--steps", type=int, default=10**9, help="stop early (benchmarks)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    os.makedirs(args.work, exist_ok=True)
    use_fast_modules()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    data = load_rows(args.corpus, tokenizer, args.length, args.eval_documents, args.seed)
    (rows, lengths), (eval_rows, _) = data
    model = new_model(tokenizer)
    optimizer = new_optimizer(model, args.weight_decay)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {int(lengths.sum()):,} tokens in {len(rows):,} rows, {float(lengths.float().mean()) / args.length:.1%} full", flush=True)

    step, tokens, before = 0, 0, 0.0
    state_path, log_path = os.path.join(args.work, "state.pt"), os.path.join(args.model, "loss.csv")
    if os.path.exists(state_path):
        state = torch.load(state_path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, tokens, before = state["step"], state["tokens"], state["seconds"]
        print(f"resumed at step {step}", flush=True)
    else:
        if args.init:
            state = torch.load(args.init)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        with open(log_path, "w") as file:
            file.write("step,seconds,tokens,lr,train_loss,eval_loss\n")

    workers = Workers(model, args.workers, args.micro_batch, data)
    start, budget = time.monotonic(), args.minutes * 60
    seconds = lambda: before + time.monotonic() - start
    last_save, recent = seconds(), []
    model.train()
    while seconds() < budget and step < args.steps:
        progress = min(1.0, seconds() / budget)
        lr = args.lr * min(1.0, (step + 1) / args.warmup) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        recent.append(workers.run(workers.TRAIN, step * args.batch, args.batch))
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        workers.gradients.zero_()
        tokens += int(lengths[torch.arange(step * args.batch, (step + 1) * args.batch) % len(rows)].sum())
        step += 1
        if step % 20 == 0 or seconds() >= budget:
            last = seconds() >= budget
            eval_loss = workers.run(workers.EVAL, 0, len(eval_rows)) if step % args.eval_every == 0 or last else None
            row = [step, f"{seconds():.1f}", tokens, f"{lr:.3e}", f"{sum(recent) / len(recent):.4f}", "" if eval_loss is None else f"{eval_loss:.4f}"]
            with open(log_path, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row, f"norm {norm:.2f} {tokens / seconds():.0f} tokens/s", flush=True)
            recent = []
        if seconds() - last_save > args.save_minutes * 60:
            torch.save(dict(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step, tokens=tokens, seconds=seconds()), state_path + ".new")
            os.replace(state_path + ".new", state_path)
            save_checkpoint(model, tokenizer, os.path.join(args.work, "checkpoint"))
            last_save = seconds()
    torch.save(dict(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step, tokens=tokens, seconds=seconds()), state_path)
    save_checkpoint(model, tokenizer, args.model)
    workers.close()
    cpu = sum(os.times()[:4])  # this process and its workers, this invocation only
    print(f"done: {step} steps, {tokens:,} tokens, {seconds():.0f} s, {tokens / seconds():.0f} tokens/s, {cpu:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
