"""Shows that the golden data tells right from wrong: recomputes it with the classic mistakes built into transformers.

    python tests/golden/check_sensitivity.py

A mistake is a textual change of transformers' modeling_qwen3_next.py. Prints, per mistake, the relative RMS
difference of the logits and the share of equal argmaxes, and fails unless every mistake exceeds ten times the tests'
tolerance. The first rows are no mistakes: other orders of the same arithmetic, the noise floor.
"""

import re
import sys
import types
from pathlib import Path

import make_golden
import safetensors.torch
import torch
from transformers.models.qwen3_next import modeling_qwen3_next as hf
from transformers.utils import logging

HERE = Path(__file__).parent
TOLERANCE = 1e-4  # of src/reference/golden_test.cc

RECURRENT = [("core_attn_out, last_recurrent_state = torch_chunk_gated_delta_rule(",
              "core_attn_out, last_recurrent_state = torch_recurrent_gated_delta_rule(")]
FLOAT64 = [("torch.float32", "torch.float64"),
           (re.compile(r"torch\.float\b"), "torch.float64"), (".float()", ".double()")]
SAME = {
    "none (float32, chunked)": [],
    "none (float32, recurrent)": RECURRENT,
    "none (float64, recurrent)": RECURRENT + FLOAT64,
}
REPEAT = ".repeat_interleave(num_v_heads // num_k_heads, dim=2)"
MISTAKES = {
    "DeltaNet: value head j reads key head j mod Hk": [(REPEAT, ".repeat(1, 1, num_v_heads // num_k_heads, 1)")],
    "DeltaNet: a and b swapped": [("b, a = torch.split(mixed_ba", "a, b = torch.split(mixed_ba")],
    "DeltaNet: v and z swapped": [("query, key, value, z = torch.split(", "query, key, z, value = torch.split(")],
    "DeltaNet: q and k swapped": [("query, key, value, z = torch.split(", "key, query, value, z = torch.split(")],
    "DeltaNet: qkvz not grouped by key head": [
        ("mixed_qkvz = mixed_qkvz.view(*new_tensor_shape_qkvz)",
         "mixed_qkvz = torch.cat([s.reshape(*s.shape[:-1], self.num_k_heads, -1) for s in mixed_qkvz.split("
         "[self.key_dim, self.key_dim, self.value_dim, self.value_dim], dim=-1)], dim=-1)")],
    "DeltaNet: conv taps reversed": [("weight=weight.unsqueeze(1)", "weight=weight.flip(-1).unsqueeze(1)")],
    "DeltaNet: conv without silu": [("out = ACT2FN[activation](out)", "pass")],
    "DeltaNet: q, k not L2-normalised": [("use_qk_l2norm_in_kernel=True", "use_qk_l2norm_in_kernel=False")],
    "DeltaNet: L2 norm by mean instead of sum": [("(x * x).sum(dim=dim", "(x * x).mean(dim=dim")],
    "DeltaNet: q not scaled by 1/sqrt(K)": [("    query = query * scaling\n", "")],
    "DeltaNet: prediction before decay": RECURRENT + [
        ("        last_recurrent_state = last_recurrent_state * decay_t\n", ""),
        ("last_recurrent_state = last_recurrent_state + k_t",
         "last_recurrent_state = last_recurrent_state * decay_t + k_t")],
    "DeltaNet: output from the old state": RECURRENT + [
        ("        last_recurrent_state = last_recurrent_state * decay_t\n",
         "        core_attn_out[:, :, i] = (last_recurrent_state * q_t.unsqueeze(-1)).sum(dim=-2)\n"
         "        last_recurrent_state = last_recurrent_state * decay_t\n"),
        ("        core_attn_out[:, :, i] = (last_recurrent_state * q_t.unsqueeze(-1)).sum(dim=-2)\n\n", "\n")],
    "DeltaNet: no decay": [("        g = -self.A_log", "        g = -0.0 * self.A_log")],
    "DeltaNet: dt_bias missing": [("F.softplus(a.float() + self.dt_bias)", "F.softplus(a.float())")],
    "DeltaNet: A_log used as A": [("-self.A_log.float().exp()", "-self.A_log.float()")],
    "DeltaNet: beta = 1": [("beta = b.sigmoid()", "beta = torch.ones_like(b)")],
    "DeltaNet: beta doubled": [("beta = b.sigmoid()", "beta = 2 * b.sigmoid()")],
    "DeltaNet: state lost at chunk borders": [
        ("        v_new = new_values[:, :, i]",
         "        last_recurrent_state = torch.zeros_like(last_recurrent_state)\n"
         "        v_new = new_values[:, :, i]")],
    "gated norm: 1 + w": [("self.weight * hidden_states.to(input_dtype)", "(1 + self.weight) * hidden_states")],
    "gated norm: sigmoid instead of silu": [('self.activation = "silu"', 'self.activation = "sigmoid"')],
    "gated norm: gate before norm": [
        ("variance = hidden_states.pow(2).mean(-1, keepdim=True)\n        # Norm before gate",
         "hidden_states = hidden_states * ACT2FN['silu'](gate)\n"
         "        variance = hidden_states.pow(2).mean(-1, keepdim=True)"),
        ("        hidden_states = hidden_states * ACT2FN[self.activation](gate.to(torch.float32))\n", "")],
    "norms: gain w instead of 1 + w": [("(1.0 + self.weight.float())", "self.weight.float()")],
    "norms: gain 1 (weights ignored)": [("(1.0 + self.weight.float())", "1.0")],
    "attention: output gate missing": [("attn_output = attn_output * torch.sigmoid(gate)", "pass")],
    "attention: gate with silu": [("torch.sigmoid(gate)", "F.silu(gate)")],
    "attention: query | gate split in halves, not per head": [
        ("""torch.chunk(
            self.q_proj(hidden_states).view(*input_shape, -1, self.head_dim * 2), 2, dim=-1
        )""", "torch.chunk(self.q_proj(hidden_states), 2, dim=-1)")],
    "attention: gate | query": [("query_states, gate = torch.chunk(", "gate, query_states = torch.chunk(")],
    "attention: q, k norms missing": [
        ("self.q_norm(query_states.view(hidden_shape))", "query_states.view(hidden_shape)"),
        ("self.k_norm(self.k_proj(hidden_states).view(hidden_shape))",
         "self.k_proj(hidden_states).view(hidden_shape)")],
    "attention: norm after RoPE": [
        ("self.q_norm(query_states.view(hidden_shape)).transpose", "query_states.view(hidden_shape).transpose"),
        ("self.k_norm(self.k_proj(hidden_states).view(hidden_shape))",
         "self.k_proj(hidden_states).view(hidden_shape)"),
        ("apply_rotary_pos_emb(query_states, key_states, cos, sin)\n",
         "apply_rotary_pos_emb(query_states, key_states, cos, sin)\n"
         "        query_states, key_states = self.q_norm(query_states), self.k_norm(key_states)\n")],
    "attention: query head n reads KV head n mod Hkv": [
        ("hidden_states[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep, slen, head_dim)",
         "hidden_states[:, None].expand(batch, n_rep, num_key_value_heads, slen, head_dim)")],
    "attention: scale 1/sqrt(D / H)": [
        ("self.scaling = self.head_dim**-0.5",
         "self.scaling = (config.hidden_size / config.num_attention_heads)**-0.5")],
    "RoPE: missing": [
        ("cos, sin = position_embeddings\n",
         "cos, sin = (torch.ones_like(position_embeddings[0]), torch.zeros_like(position_embeddings[0]))\n")],
    "RoPE: interleaved pairs": [
        ("x1 = x[..., : x.shape[-1] // 2]", "x1, x2 = x[..., ::2], x[..., 1::2]"),
        ("    x2 = x[..., x.shape[-1] // 2 :]\n", ""),
        ("torch.cat((-x2, x1), dim=-1)", "torch.stack((-x2, x1), dim=-1).flatten(-2)"),
        ("emb = torch.cat((freqs, freqs), dim=-1)", "emb = freqs.repeat_interleave(2, dim=-1)")],
    "RoPE: exponent over the head dimension": [
        ("torch.arange(0, dim, 2, dtype=torch.float) / dim",
         "torch.arange(0, dim, 2, dtype=torch.float) / head_dim")],
    "RoPE: over the whole head": [('config.rope_parameters.get("partial_rotary_factor", 1.0)', "1.0")],
    "RoPE: last dimensions instead of first": [
        ("q_rot, q_pass = q[..., :rotary_dim], q[..., rotary_dim:]",
         "q_rot, q_pass = q[..., -rotary_dim:], q[..., :-rotary_dim]"),
        ("k_rot, k_pass = k[..., :rotary_dim], k[..., rotary_dim:]",
         "k_rot, k_pass = k[..., -rotary_dim:], k[..., :-rotary_dim]"),
        ("torch.cat([q_embed, q_pass]", "torch.cat([q_pass, q_embed]"),
        ("torch.cat([k_embed, k_pass]", "torch.cat([k_pass, k_embed]")],
    "RoPE: rotation backwards for q": [
        ("q_embed = (q_rot * cos) + (rotate_half(q_rot) * sin)",
         "q_embed = (q_rot * cos) - (rotate_half(q_rot) * sin)")],
    "MoE: top-k not renormalised": [("if self.norm_topk_prob:", "if False:")],
    "MoE: one expert fewer": [
        ("self.top_k = config.num_experts_per_tok", "self.top_k = config.num_experts_per_tok - 1")],
    "MoE: gate and up swapped": [("gate, up = nn.functional.linear", "up, gate = nn.functional.linear")],
    "MoE: shared expert missing": [("expert_output + shared_expert_output", "expert_output")],
    "MoE: shared expert's gate missing": [
        ("F.sigmoid(self.shared_expert_gate(hidden_states_reshaped)) * shared_expert_output",
         "shared_expert_output")],
    "MoE: shared expert counted twice": [
        ("expert_output + shared_expert_output", "expert_output + 2 * shared_expert_output")],
    "layer: MoE reads the un-normed stream": [
        ("hidden_states = self.post_attention_layernorm(hidden_states)", "pass")],
    "head: final norm missing": [("        hidden_states = self.norm(hidden_states)\n\n", "")],
}
# Mistakes that the base case cannot show. (The frequencies are changed where they are used: loading a model computes
# them anew, past any change in the constructor.)
INV_FREQ = "self.inv_freq.to(device=x.device, dtype=torch.float)"
YARN_MISTAKES = {
    "YaRN: ignored": [
        (INV_FREQ, "self.compute_default_rope_parameters(self.config)[0]"),
        ("inv_freq, self.attention_scaling = rope_init_fn(self.config)",
         "inv_freq, self.attention_scaling = rope_init_fn(self.config)[0], 1.0")],
    "YaRN: attention factor missing": [
        ("inv_freq, self.attention_scaling = rope_init_fn(self.config)",
         "inv_freq, self.attention_scaling = rope_init_fn(self.config)[0], 1.0")],
    "YaRN: attention factor only": [(INV_FREQ, "self.compute_default_rope_parameters(self.config)[0]")],
    "YaRN: all frequencies divided": [
        (INV_FREQ, "self.compute_default_rope_parameters(self.config)[0] / self.config.rope_parameters['factor']")],
}


def variant(changes: list) -> types.ModuleType:
    """transformers' module with changes to its text."""
    text = Path(hf.__file__).read_text()
    for old, new in changes:
        changed = old.sub(new, text) if isinstance(old, re.Pattern) else text.replace(old, new)
        assert changed != text, f"transformers has changed: no '{old}'"
        text = changed
    module = types.ModuleType(hf.__name__)
    module.__package__ = hf.__package__
    module.__file__ = hf.__file__
    exec(compile(text, hf.__file__, "exec"), module.__dict__)
    return module


@torch.no_grad()
def measure(case: str, changes: list) -> tuple[float, float]:
    """Relative RMS difference of the logits and share of equal argmaxes under the changes."""
    expected = safetensors.torch.load_file(HERE / case / "expected.safetensors")
    right = hf.Qwen3NextForCausalLM.from_pretrained(HERE / case, dtype=torch.float32).float()
    config = make_golden.make_config(make_golden.CASES[case]["fields"])
    model = variant(changes).Qwen3NextForCausalLM(config).eval()
    model.load_state_dict(right.state_dict())
    if changes[-len(FLOAT64):] == FLOAT64:
        model = model.double()
    logits = model(expected["tokens"][None].long(), use_cache=False).logits[0]
    want = expected["logits"].to(logits.dtype)
    rms = ((logits - want).pow(2).mean() / want.pow(2).mean()).sqrt().item()
    return rms, (logits.argmax(-1) == want.argmax(-1)).float().mean().item()


@torch.no_grad()
def measure_mtp(case: str, mistake: str) -> tuple[float, float]:
    """The same for the logits of the MTP module."""
    directory = HERE / case
    expected = safetensors.torch.load_file(directory / "expected.safetensors")
    model = hf.Qwen3NextForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                    experts_implementation="eager")
    mtp = make_golden.Mtp(model.config).eval()
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    mtp.load_state_dict(make_golden.fuse_experts(
        {name.removeprefix("mtp."): t.float() for name, t in tensors.items() if name.startswith("mtp.")}))
    tokens, hidden = expected["tokens"][None].long(), expected["hidden.final_norm"][None]
    if mistake == "hidden state before the final norm":
        hidden = expected[f"hidden.layer.{model.config.num_hidden_layers - 1}"][None]
    elif mistake == "hidden | embedding":
        mtp.fc.weight.copy_(mtp.fc.weight.roll(model.config.hidden_size, dims=1))
    elif mistake == "embedding of the current token":
        tokens = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)
    elif mistake == "without its final norm":
        mtp.norm = torch.nn.Identity()
    logits, want = mtp(model, tokens, hidden)[0], expected["mtp_logits"]
    rms = ((logits - want).pow(2).mean() / want.pow(2).mean()).sqrt().item()
    return rms, (logits.argmax(-1) == want.argmax(-1)).float().mean().item()


MTP_MISTAKES = ["none", "hidden state before the final norm", "hidden | embedding", "embedding of the current token",
                "without its final norm"]


def main() -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed = []

    def row(case, name, rms, agree, is_mistake):
        print(f"| {name} | {case} | {rms:.2g} | {agree:.2f} |", flush=True)
        if (rms < 10 * TOLERANCE) if is_mistake else (rms > TOLERANCE):
            failed.append(name)

    print("| mistake | case | relative RMS | same argmax |\n| --- | --- | --- | --- |")
    for case in make_golden.CASES:
        row(case, "none (float64, recurrent)", *measure(case, SAME["none (float64, recurrent)"]), False)
    for name, changes in SAME.items():
        row("base", name, *measure("base", changes), False)
    for name, changes in MISTAKES.items():
        row("base", name, *measure("base", changes), True)
    for name, changes in YARN_MISTAKES.items():
        row("yarn", name, *measure("yarn", changes), True)
    for name in MTP_MISTAKES:
        row("base", f"MTP: {name}", *measure_mtp("base", name), name != "none")
    if failed:
        sys.exit(f"not discriminated: {failed}")


if __name__ == "__main__":
    main()
