"""Write the golden files: numbers by PyTorch and transformers that CI holds ours to, without them.

Run it (`hatch run compat:golden`) where what they freeze has changed on purpose, and look at the
difference before it is committed.

    packages/tricycle-nn/tests/optimiser_golden.npz    fifty steps of SGD and of AdamW
    tests/golden/NAME.json                             a model's loss, logits, gradients, and the
                                                       losses of its first ten steps

A model's weights are not stored.  Ours draws them from a seed and writes a model folder, from
which transformers reads them; the test draws them again.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers

from tricycle_gpt import GPT, PRESETS, GPTConfig, to_huggingface
from tricycle_gpt.huggingface import pieces

ROOT = Path(__file__).parents[1]
OPTIMISERS = ROOT / "packages/tricycle-nn/tests/optimiser_golden.npz"
MODELS = ROOT / "tests/golden"

TINY = {"vocab_size": 37, "context_window": 16, "embedding_dim": 24, "n_layers": 2, "n_heads": 2}
GROUPED = {"block": "llama", "n_heads": 6, "n_key_value_heads": 2}
# Noise on top of the first weights moves biases from 0 and norms from 1, and makes attention sharp.
KINDS = {
    "tiny_gpt2": (GPTConfig(**TINY), 0.1),
    "tiny_gpt2_head_apart": (GPTConfig(**TINY, tied_head=False), 0.1),
    "tiny_llama": (GPTConfig(**TINY | GROUPED, tied_head=False), 0.1),
    "tiny_qwen3": (GPTConfig(**TINY | GROUPED, qk_norm=True), 0.1),
    "gpt2": (PRESETS["gpt2"], 0.0),
}
RECIPE = {
    "steps": 10,
    "learning_rate": 0.01,
    "betas": [0.9, 0.99],
    "weight_decay": 0.1,
    "max_norm": 1.0,
}
SEED = 2026


def main() -> None:
    torch.set_num_threads(1)  # sums in one order
    transformers.logging.disable_progress_bar()
    write_optimisers(OPTIMISERS)
    MODELS.mkdir(exist_ok=True)
    for name, (config, noise) in KINDS.items():
        path = MODELS / f"{name}.json"
        path.write_text(as_json(measured(config, noise)), encoding="utf-8")
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")


# ---- Optimisers ----


def write_optimisers(path: Path) -> None:
    """A start, fifty gradients, and the weights after each step of each optimiser."""
    rng = np.random.default_rng(SEED)
    start = rng.standard_normal(23, np.float32)
    gradients = np.float32(0.3) * rng.standard_normal((50, 23), np.float32) + start / 2
    sgd, adamw = torch.optim.SGD, torch.optim.AdamW
    nesterov = {"momentum": 0.9, "nesterov": True}
    made = {
        "sgd": (sgd, {"lr": 0.05}),
        "sgd_momentum": (sgd, {"lr": 0.05, "momentum": 0.9}),
        "sgd_nesterov": (sgd, {"lr": 0.05, **nesterov}),
        "sgd_nesterov_decay": (sgd, {"lr": 0.05, **nesterov, "weight_decay": 0.1}),
        "adamw": (adamw, {"lr": 0.01, "betas": (0.9, 0.999), "weight_decay": 0.0}),
        "adamw_decay": (adamw, {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}),
    }
    steps = {name: list(torch_steps(start, gradients, *how)) for name, how in made.items()}
    np.savez_compressed(path, start=start, gradients=gradients, **steps)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")


def torch_steps(start, gradients, kind, settings) -> Iterator[np.ndarray]:
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimiser = kind([weight], **settings)
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient)
        optimiser.step()
        yield weight.detach().numpy().copy()


# ---- Models ----


def measured(config: GPTConfig, noise: float) -> dict:
    """A model's numbers by transformers, named and laid out as ours."""
    rng = np.random.default_rng(SEED)
    ours = GPT(config, rng=rng)
    for parameter in ours.parameters():
        parameter.array += np.float32(noise) * rng.standard_normal(parameter.shape, np.float32)
    size = min(config.context_window, 32)
    ids = rng.integers(0, config.vocab_size, (2, size + 1))
    with tempfile.TemporaryDirectory() as folder:
        to_huggingface(ours, folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).train()

    inputs, targets = torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])
    logits = theirs(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    found = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "config": dataclasses.asdict(config),
        "seed": SEED,
        "noise": noise,
        "ids": ids.tolist(),
        "loss": loss.item(),
        "logits": logits[:, -1, :12].tolist(),
        "gradients": {name: summary(g) for name, g in gradients_as_ours(ours, theirs).items()},
    }
    if noise:  # the small ones
        found["recipe"] = RECIPE
        found["losses"] = train(theirs, inputs, targets)
    return found


def gradients_as_ours(ours: GPT, theirs: torch.nn.Module) -> dict[str, np.ndarray]:
    """The gradients of their parameters under our names, in our layout."""
    gradients = {name: np.zeros(p.shape, np.float32) for name, p in ours.named_parameters()}
    given = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    for name, piece in pieces(ours.config).items():
        piece.of(gradients)[...] = given.pop(name)
    assert not given, f"parameters of theirs that ours has not: {sorted(given)}"
    return gradients


def summary(gradient: np.ndarray) -> dict:
    """What a gradient is recognised by: its shape, its length, its largest entry and some more.

    entries   flat index and value of the largest and of six spread over the array
    """
    flat = gradient.reshape(-1)
    largest = int(np.abs(flat).argmax())
    chosen = {largest, *np.linspace(0, flat.size - 1, 6).astype(int).tolist()}
    return {
        "shape": list(gradient.shape),
        "norm": float(np.linalg.norm(flat.astype(np.float64))),
        "largest": float(np.abs(flat[largest])),
        "entries": [[i, float(flat[i])] for i in sorted(chosen)],
    }


def train(model: torch.nn.Module, inputs, targets) -> list[float]:
    """The losses of the recipe's steps, all on one batch; decay for matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": RECIPE["weight_decay"]},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=RECIPE["learning_rate"],
        betas=tuple(RECIPE["betas"]),
    )
    losses = []
    for _ in range(RECIPE["steps"]):
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE["max_norm"])
        optimiser.step()
        losses.append(loss.item())
    return losses


def as_json(found: dict) -> str:
    """JSON with a line for each gradient, so that a change can be read."""
    gradients = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(shown)}" for name, shown in found["gradients"].items()
    )
    rest = {name: value for name, value in found.items() if name != "gradients"}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in rest.items()]
    lines.append(f'  "gradients": {{\n{gradients}\n  }}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
