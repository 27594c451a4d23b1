"""Makes the golden data of tests/golden: tiny random Qwen3-Next checkpoints and what transformers computes from them.

    python tests/golden/make_golden.py [CASE ...]

README.md says what each case is for and how expected.safetensors is laid out.
"""

import argparse
import copy
import json
import math
import shutil
from pathlib import Path

import safetensors.torch
import torch
import transformers
from torch import nn
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.models.qwen3_next import modeling_qwen3_next as hf
from transformers.utils import logging

HERE = Path(__file__).parent
GENERATED_TOKENS = 24
# The prompt is chosen so that no router and no argmax decision is closer than this (in logits, whose standard
# deviation is about 2): whoever is right to 1e-3 must take the same experts and the same argmax everywhere.
MIN_GAP = 0.02
MIN_GENERATED_GAP = 0.01

BASE = dict(
    vocab_size=160, hidden_size=64, num_hidden_layers=4, intermediate_size=40, max_position_embeddings=1024,
    num_attention_heads=4, num_key_value_heads=2, head_dim=32, partial_rotary_factor=0.25, rope_theta=1e4,
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
    linear_conv_kernel_dim=4, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=10,
    shared_expert_intermediate_size=24, eos_token_id=2, bos_token_id=0,
)
SMALL = BASE | dict(vocab_size=96, hidden_size=40, num_hidden_layers=2, head_dim=24, partial_rotary_factor=0.5,
                    num_experts=6, num_experts_per_tok=2, full_attention_interval=2)

# name -> config fields (Hugging Face's names), and what is special about the files:
#   tokens   length of the prompt                 dtype    element type on disk
#   config   "v5": as save_pretrained writes it;  "v4": as transformers 4.57 wrote it (and as the released models are)
#   experts  "split": one tensor per expert and projection (what save_pretrained writes);
#            "fused": [E, 2F, D] and [E, D, F]
CASES = {
    "base": dict(fields=BASE, tokens=150, mtp=True),
    "wide_heads": dict(
        fields=BASE | dict(vocab_size=97, hidden_size=48, num_attention_heads=8, head_dim=24,
                           partial_rotary_factor=0.5, linear_num_value_heads=8, linear_key_head_dim=24,
                           num_experts=8, num_experts_per_tok=2,
                           full_attention_interval=2, rope_theta=1e7, num_hidden_layers=4),
        tokens=150, mtp=True, config="v4"),
    "one_to_one": dict(
        fields=BASE | dict(vocab_size=151, hidden_size=72, num_hidden_layers=3, full_attention_interval=3,
                           num_attention_heads=3, num_key_value_heads=3, head_dim=20, partial_rotary_factor=0.6,
                           linear_num_key_heads=3, linear_num_value_heads=3, linear_key_head_dim=8,
                           linear_value_head_dim=12, num_experts=3, num_experts_per_tok=1, moe_intermediate_size=40,
                           shared_expert_intermediate_size=20, norm_topk_prob=False),
        tokens=131, experts="fused"),
    "layer_types": dict(
        fields=SMALL | dict(num_hidden_layers=4, linear_conv_kernel_dim=3, eos_token_id=[2, 0],
                            layer_types=["full_attention", "linear_attention", "linear_attention", "full_attention"]),
        tokens=100, config="v4"),
    "dense": dict(
        fields=SMALL | dict(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3], tie_word_embeddings=True,
                            intermediate_size=56),
        tokens=100),
    "yarn": dict(
        fields=SMALL | dict(max_position_embeddings=256,
                            yarn=dict(factor=4.0, original_max_position_embeddings=64)),
        tokens=150),
    "f16": dict(
        fields=SMALL | dict(partial_rotary_factor=1.0, max_position_embeddings=64,
                            yarn=dict(factor=8.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5,
                                      attention_factor=1.5)),
        tokens=70, dtype="float16", config="v4"),
    "f32": dict(fields=SMALL | dict(rms_norm_eps=1e-3), tokens=50, dtype="float32"),
    "fp8": dict(
        fields=SMALL | dict(hidden_size=128, linear_key_head_dim=32, linear_value_head_dim=64, num_attention_heads=8,
                            head_dim=32, num_experts=4, moe_intermediate_size=24),
        tokens=50, dtype="fp8", config="v4"),
    "long": dict(
        fields=SMALL | dict(num_hidden_layers=3, full_attention_interval=3, num_key_value_heads=1),
        tokens=330),
    "sharded": dict(fields=SMALL, tokens=50, config="v4", max_shard_size="30KB"),
}


def make_config(fields: dict) -> Qwen3NextConfig:
    fields = copy.deepcopy(fields)
    yarn = fields.pop("yarn", None)
    rope = dict(rope_type="default", rope_theta=fields.pop("rope_theta"),
                partial_rotary_factor=fields.pop("partial_rotary_factor"))
    if yarn is not None:
        rope |= dict(rope_type="yarn") | yarn
    config = Qwen3NextConfig(rope_parameters=rope, **fields)
    config.architectures = ["Qwen3NextForCausalLM"]
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config


def legacy_config(config: dict, fields: dict) -> dict:
    """The same config.json in the spelling of transformers 4.57, in which the released checkpoints are written."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind} | rope
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    if "layer_types" not in fields:
        config.pop("layer_types")
        config["full_attention_interval"] = fields["full_attention_interval"]
    config["transformers_version"] = "4.57.0.dev0"
    return dict(sorted(config.items()))


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Weights under which every term of the architecture matters: gains away from neutral, gates unsaturated,
    decays from one token to hundreds, attention and routing that choose."""

    def normal(p, std, mean=0.0):
        p.copy_(torch.randn(p.shape, generator=generator) * std + mean)

    def uniform(p, low, high):
        p.copy_(torch.rand(p.shape, generator=generator) * (high - low) + low)

    tied = model.config.tie_word_embeddings if hasattr(model, "config") else False
    for name, p in sorted(model.named_parameters()):
        if name.endswith("linear_attn.norm.weight"):
            normal(p, 0.2, mean=1.0)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            normal(p, 0.2, mean=0.6)  # larger gains sharpen the attention, whose mistakes would else average out
        elif p.dim() == 1 and "norm" in name:
            normal(p, 0.2)
        elif name.endswith("A_log"):
            uniform(p, 1.0, 16.0)
            p.log_()
        elif name.endswith("dt_bias"):
            uniform(p, -5.0, 0.5)
        elif name.endswith("conv1d.weight"):
            uniform(p, -0.5, 0.5)
        elif name.endswith("embed_tokens.weight"):
            normal(p, 2.0 / math.sqrt(p.shape[-1]) if tied else 1.0)
        elif name.endswith(("mlp.gate.weight", "lm_head.weight")):
            normal(p, 2.0 / math.sqrt(p.shape[-1]))
        elif name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")):
            normal(p, 2.0 / math.sqrt(p.shape[-1]))  # their inputs are products with gates, so smaller than 1
        else:
            normal(p, 1.0 / math.sqrt(p.shape[-1]))


class Mtp(nn.Module):
    """The multi-token-prediction module, which transformers lacks, assembled from transformers' own layers."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__()
        config = copy.deepcopy(config)
        config.num_hidden_layers = 1
        config.layer_types = ["full_attention"]
        self.pre_fc_norm_embedding = hf.Qwen3NextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pre_fc_norm_hidden = hf.Qwen3NextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList([hf.Qwen3NextDecoderLayer(config, 0)])
        self.norm = hf.Qwen3NextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, model: Qwen3NextForCausalLM, tokens: torch.Tensor, final_hidden: torch.Tensor) -> torch.Tensor:
        """Slot p sees token p+1 and the final-normed hidden state of p, at position p, and predicts token p+2."""
        embedding = self.pre_fc_norm_embedding(model.model.embed_tokens(tokens[:, 1:]))
        hidden = self.pre_fc_norm_hidden(final_hidden[:, :-1])
        x = self.fc(torch.cat([embedding, hidden], dim=-1))
        slots = x.shape[1]
        position_embeddings = model.model.rotary_emb(x, torch.arange(slots)[None])
        mask = torch.full((slots, slots), float("-inf")).triu(1)[None, None]
        x = self.layers[0](x, position_embeddings=position_embeddings, attention_mask=mask)
        return model.lm_head(self.norm(x))


def quantise_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[out, in] -> e4m3 elements, and one scale per 128x128 block, by which they are to be multiplied. Both sizes
    must be at most 128 or multiples of it: transformers 5.23 cuts others into equal blocks, not 128s and a rest."""
    rows, cols = weight.shape
    assert (rows <= 128 or rows % 128 == 0) and (cols <= 128 or cols % 128 == 0), weight.shape
    scale = torch.empty(math.ceil(rows / 128), math.ceil(cols / 128))
    quantised = torch.empty(rows, cols, dtype=torch.float8_e4m3fn)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            block = (slice(128 * i, 128 * (i + 1)), slice(128 * j, 128 * (j + 1)))
            scale[i, j] = weight[block].abs().max() / 448
            quantised[block] = (weight[block] / scale[i, j]).to(torch.float8_e4m3fn)
    return quantised, scale


def is_fp8(name: str) -> bool:
    """Which tensors the released FP8 checkpoints quantise (docs/model.md)."""
    return name.endswith(("in_proj_qkvz.weight", "out_proj.weight", "q_proj.weight", "k_proj.weight", "v_proj.weight",
                          "o_proj.weight", "gate_proj.weight", "up_proj.weight", "down_proj.weight"))


def split_experts(state: dict) -> dict:
    """Fused expert tensors -> one per expert and projection, as the released checkpoints have them."""
    result = {}
    for name, tensor in state.items():
        stem = name.rsplit(".", 1)[0]
        if name.endswith("experts.gate_up_proj"):
            for e, expert in enumerate(tensor):
                gate, up = expert.chunk(2)
                result[f"{stem}.{e}.gate_proj.weight"], result[f"{stem}.{e}.up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            for e, expert in enumerate(tensor):
                result[f"{stem}.{e}.down_proj.weight"] = expert
        else:
            result[name] = tensor
    return result


def fuse_experts(state: dict) -> dict:
    """The inverse of split_experts."""
    result = {k: v for k, v in state.items() if ".experts." not in k}
    for name in state:
        if name.endswith("experts.0.gate_proj.weight"):
            stem = name.removesuffix(".0.gate_proj.weight")
            experts = range(sum(k.startswith(stem) and k.endswith(".gate_proj.weight") for k in state))
            parts = {p: [state[f"{stem}.{e}.{p}_proj.weight"] for e in experts] for p in ("gate", "up", "down")}
            result[f"{stem}.gate_up_proj"] = torch.cat([torch.stack(parts["gate"]), torch.stack(parts["up"])], dim=1)
            result[f"{stem}.down_proj"] = torch.stack(parts["down"])
    return result


def save_fp8(model: Qwen3NextForCausalLM, directory: Path) -> None:
    on_disk = {}
    for name, tensor in split_experts(model.state_dict()).items():
        if is_fp8(name):
            on_disk[name], on_disk[name + "_scale_inv"] = quantise_fp8(tensor)
        else:
            on_disk[name] = tensor.to(torch.bfloat16)
    safetensors.torch.save_file(on_disk, directory / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic",
                                         weight_block_size=[128, 128])
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def build(name: str, case: dict, directory: Path) -> tuple[Qwen3NextForCausalLM, Mtp | None]:
    """Writes the checkpoint and returns the model as transformers loads it from there, computing in float32."""
    generator = torch.Generator().manual_seed(1000 + list(CASES).index(name))
    config = make_config(case["fields"])
    model = Qwen3NextForCausalLM(config).eval()
    randomise(model, generator)
    mtp = None
    if case.get("mtp"):
        mtp = Mtp(config).eval()
        randomise(mtp, generator)
        with torch.no_grad():
            for p in mtp.parameters():
                p.copy_(p.to(torch.bfloat16).float())

    dtype = case.get("dtype", "bfloat16")
    if dtype == "fp8":
        save_fp8(model, directory)
    else:
        stored = copy.deepcopy(model).to(getattr(torch, dtype))
        stored.save_pretrained(directory, max_shard_size=case.get("max_shard_size", "1GB"))
        file = directory / "model.safetensors"
        if case.get("experts") == "fused":
            safetensors.torch.save_file(stored.state_dict(), file, metadata={"format": "pt"})
        if mtp is not None:
            tensors = safetensors.torch.load_file(file)
            for key, value in split_experts(mtp.state_dict()).items():
                tensors[f"mtp.{key}"] = value.to(torch.bfloat16).contiguous()
            safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})

    path = directory / "config.json"
    if case.get("config") == "v4":
        path.write_text(json.dumps(legacy_config(json.loads(path.read_text()), case["fields"]), indent=2) + "\n")
    # .float() for what transformers leaves in bf16 beside the fp8 matrices, which it widens to float32.
    model = Qwen3NextForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager").float().eval()
    return model, mtp


def gap(values: torch.Tensor, k: int) -> torch.Tensor:
    """Distance between the k-th and the next largest along the last axis."""
    top = values.topk(min(k + 1, values.shape[-1]), dim=-1).values
    return top[..., k - 1] - top[..., k] if top.shape[-1] > k else torch.full(top.shape[:-1], float("inf"))


class Recorder:
    """Runs the model and keeps what every layer hands on, and how far each decision was from a tie."""

    def __init__(self, model: Qwen3NextForCausalLM, mtp: Mtp | None):
        self.model, self.mtp = model, mtp
        self.hidden, self.router_logits, self.in_mtp = {}, [], False
        model.model.embed_tokens.register_forward_hook(lambda m, i, o: self.keep("embedding", o))
        for n, layer in enumerate(model.model.layers):
            layer.register_forward_hook(lambda m, i, o, n=n: self.keep(f"layer.{n}", o))
        model.model.norm.register_forward_hook(lambda m, i, o: self.keep("final_norm", o))
        for root in [model] + ([mtp] if mtp else []):
            for module in root.modules():
                if isinstance(module, hf.Qwen3NextTopKRouter):
                    module.register_forward_hook(lambda m, i, o: self.router_logits.append((self.in_mtp, o[0])))

    def keep(self, name, output):
        if not self.in_mtp:
            self.hidden[name] = output[0] if output.dim() == 3 else output

    @torch.no_grad()
    def run(self, tokens: list[int]):
        """Sets logits, mtp_logits, cache, hidden, router_gap [T] and argmax_gap [T]."""
        ids = torch.tensor([tokens])
        self.router_logits, self.in_mtp = [], False
        out = self.model(ids, use_cache=True)
        self.logits, self.cache, self.mtp_logits = out.logits[0], out.past_key_values, None
        self.argmax_gap = gap(self.logits, 1)
        if self.mtp is not None and len(tokens) > 1:
            self.in_mtp = True
            self.mtp_logits = self.mtp(self.model, ids, self.hidden["final_norm"][None])[0]
            self.argmax_gap[1:] = torch.minimum(self.argmax_gap[1:], gap(self.mtp_logits, 1))
            self.in_mtp = False
        self.router_gap = torch.full((len(tokens),), float("inf"))
        for in_mtp, logits in self.router_logits:  # MTP slot p depends on token p + 1
            rows = self.router_gap[1:] if in_mtp else self.router_gap
            rows.copy_(torch.minimum(rows, gap(logits, self.model.config.num_experts_per_tok)))


def choose_prompt(recorder: Recorder, length: int, vocab: int, generator: torch.Generator) -> list[int]:
    """A random prompt without near-ties: the first offending token is drawn again until none is left (the model is
    causal, so earlier positions stay as they are)."""
    tokens = torch.randint(vocab, (length,), generator=generator).tolist()
    while True:
        recorder.run(tokens)
        bad = torch.nonzero(torch.minimum(recorder.router_gap, recorder.argmax_gap) < MIN_GAP)
        if bad.numel() == 0:
            return tokens
        tokens[int(bad[0])] = int(torch.randint(vocab, (1,), generator=generator))


def generate(recorder: Recorder, tokens: list[int]) -> list[int]:
    """Greedy continuation by transformers' generate(): prefill, then one token at a time through the caches."""
    out = recorder.model.generate(torch.tensor([tokens]), do_sample=False, max_new_tokens=GENERATED_TOKENS,
                                  min_new_tokens=GENERATED_TOKENS, eos_token_id=None, pad_token_id=0,
                                  attention_mask=torch.ones(1, len(tokens), dtype=torch.long))
    return out[0, len(tokens):].tolist()


def record(name: str, case: dict, directory: Path) -> None:
    model, mtp = build(name, case, directory)
    generator = torch.Generator().manual_seed(2000 + list(CASES).index(name))
    recorder = Recorder(model, mtp)
    length, vocab = case["tokens"], model.config.vocab_size
    prefix = choose_prompt(recorder, length - 1, vocab, generator)
    while True:  # the last token decides the continuation: draw it until that has no near-tie either
        tokens = prefix + torch.randint(vocab, (1,), generator=generator).tolist()
        recorder.run(tokens)
        if min(recorder.router_gap[-1], recorder.argmax_gap[-1]) < MIN_GAP:
            continue
        generated = generate(recorder, tokens)
        recorder.run(tokens + generated)
        if recorder.argmax_gap[length:].min() >= MIN_GENERATED_GAP:
            break
    assert recorder.logits[length - 1:-1].argmax(-1).tolist() == generated, "decoding differs from prefill"

    recorder.run(tokens)
    expected = {"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": recorder.logits,
                "generated": torch.tensor(generated, dtype=torch.int32)}
    if recorder.mtp_logits is not None:
        expected["mtp_logits"] = recorder.mtp_logits
    for key, value in recorder.hidden.items():
        expected[f"hidden.{key}"] = value
    taps = model.config.linear_conv_kernel_dim
    for i, (kind, layer) in enumerate(zip(model.config.layer_types, recorder.cache.layers)):
        if kind == "linear_attention":
            expected[f"state.layer.{i}.recurrent"] = layer.recurrent_states[0][0]
            # transformers keeps as many inputs as there are taps; the next token needs one fewer.
            expected[f"state.layer.{i}.conv"] = layer.conv_states[0][0, :, -(taps - 1):].T
        else:
            expected[f"state.layer.{i}.k"] = layer.keys[0]
            expected[f"state.layer.{i}.v"] = layer.values[0]
    for key, value in expected.items():
        assert torch.isfinite(value).all(), key
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    safetensors.torch.save_file(
        {k: v.detach().clone().contiguous() for k, v in expected.items()}, directory / "expected.safetensors",
        metadata={"made_by": f"make_golden.py {name}, {versions}"})
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{name:12} {length:4} tokens {size / 1e6:5.2f} MB  logits std {recorder.logits.std():.2f}  "
          f"hidden std {recorder.hidden['embedding'].std():.2f} -> {recorder.hidden[f'layer.{i}'].std():.2f}  "
          f"router gap >= {recorder.router_gap.min():.3f}  argmax gap >= {recorder.argmax_gap.min():.3f}  "
          f"distinct generated {len(set(generated))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--output", type=Path, default=HERE, help="directory to write the case directories into")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # one order of summation
    for name in args.cases or CASES:
        directory = args.output / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        record(name, CASES[name], directory)


if __name__ == "__main__":
    main()
