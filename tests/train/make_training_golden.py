"""Makes tests/train/golden: a tiny model, 20 batches, and what PyTorch + transformers make of them with AdamW.

    python tests/train/make_training_golden.py        (packages: tests/golden/requirements.txt)

golden/model.safetensors and config.json are the model before the first step (f32). golden/expected.safetensors holds
    tokens        [20, 2, 48] I32   a batch of two documents per step
    losses, aux   [20] F32          of each batch before its step: cross-entropy, load_balancing_loss_func
    gradient.NAME                   of the first batch, under the names of model.safetensors
    after.NAME                      the parameters after the 20 steps
and its metadata the settings. Gradients include 0.01 times the load-balance loss.
"""

import json
import sys
from pathlib import Path

import numpy
import safetensors.torch
import torch
from transformers import Qwen3NextForCausalLM
from transformers.models.qwen3_next import modeling_qwen3_next as hf

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from make_golden import SMALL, make_config, randomise, split_experts

HERE = Path(__file__).parent / "golden"
STEPS, BATCH, LENGTH = 20, 2, 48
SETTINGS = dict(learning_rate=2e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, aux_coefficient=0.01)


def is_decayed(name):
    """Matrices and zero-centred norms; not A_log, dt_bias, the convolution and the gated norm."""
    return not name.endswith(("A_log", "dt_bias", "conv1d.weight", "linear_attn.norm.weight"))


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = make_config(SMALL | dict(num_hidden_layers=4, output_router_logits=True, router_aux_loss_coef=0.0))
    model = Qwen3NextForCausalLM(config).float()
    randomise(model, torch.Generator().manual_seed(5))
    model.train()
    HERE.mkdir(exist_ok=True)
    initial = split_experts({k: v.detach().clone().contiguous() for k, v in model.state_dict().items()})
    safetensors.torch.save_file(initial, HERE / "model.safetensors", metadata={"format": "pt"})
    text = config.to_dict() | {"dtype": "float32"}
    (HERE / "config.json").write_text(json.dumps(text, indent=1, sort_keys=True, default=str) + "\n")

    # A little language with structure, so that the losses fall: each token leans on the one two before.
    generator = numpy.random.default_rng(3)
    tokens = generator.integers(0, config.vocab_size, (STEPS, BATCH, LENGTH))
    for t in range(2, LENGTH):
        lean = generator.random((STEPS, BATCH)) < 0.7
        tokens[:, :, t] = numpy.where(lean, (tokens[:, :, t - 2] * 3 + 1) % config.vocab_size, tokens[:, :, t])
    tokens = torch.from_numpy(tokens)

    parameters = dict(model.named_parameters())
    groups = [{"params": [p for n, p in parameters.items() if is_decayed(n)], "weight_decay": SETTINGS["weight_decay"]},
              {"params": [p for n, p in parameters.items() if not is_decayed(n)], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS["learning_rate"], betas=(SETTINGS["beta1"], SETTINGS["beta2"]),
                                  eps=SETTINGS["eps"])
    expected, losses, auxiliary = {}, [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        out = model(input_ids=tokens[step], labels=tokens[step], output_router_logits=True)
        aux = hf.load_balancing_loss_func(out.router_logits, config.num_experts, config.num_experts_per_tok)
        losses.append(out.loss.item())
        auxiliary.append(aux.item())
        (out.loss + SETTINGS["aux_coefficient"] * aux).backward()
        if step == 0:
            gradients = split_experts({n: p.grad.detach().clone().contiguous() for n, p in parameters.items()})
            expected |= {f"gradient.{n}": g for n, g in gradients.items()}
        optimizer.step()
    expected |= {f"after.{n}": p for n, p in split_experts({k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}).items()}
    expected |= {"tokens": tokens.to(torch.int32), "losses": torch.tensor(losses), "aux": torch.tensor(auxiliary)}
    safetensors.torch.save_file({k: v.contiguous() for k, v in expected.items()}, HERE / "expected.safetensors",
                                metadata={k: str(v) for k, v in SETTINGS.items()})
    print("losses", [round(x, 4) for x in losses], "aux", [round(x, 4) for x in auxiliary])


if __name__ == "__main__":
    main()
