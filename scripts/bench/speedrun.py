"""Does what has been learned since GPT-2 save tokens?

    hatch run bench speedrun.py [--steps 1000] [--folder runs/speedrun] [--picture curves.png]
    hatch run bench speedrun.py --only plain-0     one run of several that go side by side

Two recipes, each with two seeds, on english.jsonl.xz (looked for in TRICYCLE_TEST_DATA): GPT-2's
block with AdamW and a cosine for so many steps, and the speedrun's (see tricycle-gpt's README) for
0.55 times as many.  Both have 4 layers, 256 wide, a context of 256 and 4,096 tokens a step, and see
the same batches.  It is asked how many tokens the second needs to reach the bits per byte on
held-out text at which the first ends, and how long its step takes: the two take turns, in one
process.

Runs are kept in the folder: a run that was stopped goes on, a finished one is only looked at.
"""

import argparse
import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tricycle_bpe import Tokeniser
from tricycle_datasets import Batches, read_documents, split_documents
from tricycle_gpt import GPT, PRESETS, GPTConfig, TrainingConfig, train
from tricycle_gpt.runs.metrics import read_metrics
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_nn import gradient_norm, scale_for_norm

END_OF_TEXT = "<|endoftext|>"
WINDOWS, CONTEXT, VOCABULARY = 16, 256, 4096
SEEDS = (0, 1)
# The plain one was the best of 1e-3, 2e-3 and 4e-3 half-way through runs of 100 steps; the other
# was not tuned.
PLAIN_RATE, SPEEDRUN_RATE = 1e-3, 1e-2
SHARE = 0.55  # of the plain recipe's steps
LOOKS = 8  # at the validation text, in a plain run
CHARACTERS = 2000  # of each validation document

SMALL = {
    "vocab_size": VOCABULARY,
    "context_window": CONTEXT,
    "embedding_dim": 256,
    "n_layers": 4,
    "n_heads": 4,
}
MODELS: dict[str, GPTConfig] = {
    "plain": replace(PRESETS["gpt2"], **SMALL),
    "speedrun": replace(PRESETS["speedrun"], **SMALL),
}


def recipe(name: str, steps: int, seed: int) -> TrainingConfig:
    """How a run trains, for a plain run of so many steps."""
    every = max(1, steps // LOOKS)
    shared = {
        "batch_size": WINDOWS,
        "beta2": 0.95,
        "seed": seed,
        "log_every": every,
        "evaluate_every": every,
        "evaluation_windows": 0,
        "checkpoint_every": every,
        "hang_seconds": 0.0,
    }
    if name == "plain":
        return TrainingConfig(
            steps=steps,
            learning_rate=PLAIN_RATE,
            final_learning_rate=PLAIN_RATE / 10,
            warmup=max(1, steps // 10),
            weight_decay=0.1,
            **shared,
        )
    steps = round(SHARE * steps)
    return TrainingConfig(
        steps=steps,
        learning_rate=SPEEDRUN_RATE,
        final_learning_rate=0.0,
        warmup=max(1, steps // 10),
        schedule="warmup-stable-decay",
        decay=steps // 2,
        optimiser="muon",
        weight_decay=0.0,
        **shared,
    )


def prepare(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Training ids, validation ids and the bytes of the latter; kept in the folder."""
    kept = folder / "tokens.npz"
    if not kept.exists():
        data = os.environ.get("TRICYCLE_TEST_DATA")
        if data is None:
            raise SystemExit("set TRICYCLE_TEST_DATA to the folder with english.jsonl.xz")
        documents = read_documents(Path(data) / "english.jsonl.xz")
        training, validation = split_documents(documents, validation=0.05)
        validation = [document[:CHARACTERS] for document in validation]
        tokeniser = Tokeniser.train(training, VOCABULARY, special_tokens=[END_OF_TEXT])
        end = np.array([tokeniser.special_tokens[END_OF_TEXT]], np.uint32)
        ids, validation_ids = (
            np.concatenate(
                [part for text in texts for part in (end, tokeniser.encode_to_numpy(text))]
            )
            for texts in (training, validation)
        )
        n_bytes = sum(len(document.encode()) for document in validation)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"tokens-{os.getpid()}.npz"
        np.savez(unfinished, training=ids, validation=validation_ids, n_bytes=n_bytes)
        unfinished.replace(kept)
    with np.load(kept) as arrays:
        return arrays["training"], arrays["validation"], int(arrays["n_bytes"])


def run(name: str, seed: int, steps: int, folder: Path) -> np.ndarray:
    """Train, or go on, or only look: (looks, 2), tokens and bits per byte."""
    config, place = recipe(name, steps, seed), folder / f"{name}-{seed}-of-{steps}"
    rows = read_metrics(place / "metrics.jsonl")
    if not rows or rows[-1]["step"] < config.steps:
        ids, validation, n_bytes = prepare(folder)
        train(
            GPT(MODELS[name], rng=np.random.default_rng(seed)),
            Batches(ids, WINDOWS, CONTEXT, seed=seed),
            config,
            place,
            validation=validation,
            validation_bytes=n_bytes,
            resume=True,
            facts={"tokens": hashlib.sha256(ids.tobytes()).hexdigest()},
        )
        rows = read_metrics(place / "metrics.jsonl")
    # A row's step has been taken, but for the last look's, which counts the steps.
    looks = [
        (min(row["step"] + 1, config.steps) * WINDOWS * CONTEXT, row["bits_per_byte"])
        for row in rows
        if "bits_per_byte" in row
    ]
    return np.array(looks)


def tokens_to_reach(target: float, curve: np.ndarray) -> float:
    """Where the straight lines between looks first come down to the target; inf if never."""
    below = np.flatnonzero(curve[:, 1] <= target)
    if not len(below):
        return np.inf
    k = below[0]
    if k == 0:
        return float(curve[0, 0])
    (t0, b0), (t1, b1) = curve[k - 1 : k + 1]
    return float(t0 + (t1 - t0) * (b0 - target) / (b0 - b1))


def step_times(rounds: int = 20) -> np.ndarray:
    """(rounds, 2, 2): of each recipe's step, the seconds by the clock and of the processor."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, (WINDOWS, CONTEXT + 1))
    models = {name: GPT(config, rng=rng) for name, config in MODELS.items()}
    optimisers = {n: make_optimiser(model, recipe(n, 1000, 0)) for n, model in models.items()}
    times = np.empty((rounds + 2, 2, 2))
    for row in times:
        for k, name in enumerate(MODELS):
            began = np.array([time.perf_counter(), time.process_time()])
            models[name].loss(ids[:, :-1], ids[:, 1:]).backward()
            norm = gradient_norm(models[name].parameters())
            optimisers[name].step(grad_scale=scale_for_norm(norm, 1.0))
            optimisers[name].zero_grad()
            row[k] = np.array([time.perf_counter(), time.process_time()]) - began
    return times[2:]  # the first compile


def draw(curves: dict[str, list[np.ndarray]], target: float, picture: Path) -> None:
    """Both recipes' curves, a line a seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    labels = {"plain": "GPT-2's block, AdamW, cosine", "speedrun": "speedrun"}
    for colour, (name, seeds) in zip(("tab:grey", "tab:red"), curves.items(), strict=True):
        for k, curve in enumerate(seeds):
            label = f"{labels[name]} ({len(seeds)} seeds)" if k == 0 else None
            axes.plot(curve[:, 0] / 1e6, curve[:, 1], color=colour, marker=".", label=label)
    axes.axhline(target, color="tab:grey", linestyle=":", linewidth=1)
    axes.set_xlabel("tokens seen, millions")
    axes.set_ylabel("bits per byte, validation")
    lowest = min(curve[:, 1].min() for seeds in curves.values() for curve in seeds)
    axes.set_ylim(lowest - 0.1, target + 0.8)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)


def main() -> None:
    """Train what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="of the plain recipe")
    parser.add_argument("--folder", type=Path, default=Path("runs/speedrun"))
    parser.add_argument("--picture", type=Path, help="FOLDER/curves.png if not given")
    parser.add_argument("--only", help="one run, such as plain-0 or speedrun-1")
    args = parser.parse_args()
    if args.only:
        name, seed = args.only.rsplit("-", 1)
        run(name, int(seed), args.steps, args.folder)
        return
    curves = {name: [run(name, seed, args.steps, args.folder) for seed in SEEDS] for name in MODELS}
    target = float(np.mean([curve[-1, 1] for curve in curves["plain"]]))
    for name, seeds in curves.items():
        for seed, curve in zip(SEEDS, seeds, strict=True):
            tokens = tokens_to_reach(target, curve)
            tokens, (seen, ends_at) = tokens_to_reach(target, curve), curve[-1]
            print(
                f"{name:9} seed {seed}: {ends_at:.4f} bits per byte after {seen / 1e6:.3f} M "
                f"tokens; reaches {target:.4f} after {tokens / 1e6:.3f} M"
            )
    mean = np.mean(curves["speedrun"], axis=0)
    whole = curves["plain"][0][-1, 0]
    print(f"ratio of tokens {tokens_to_reach(target, mean) / whole:.3f} (the seeds' mean curve)")
    times = step_times()
    for k, clock in enumerate(("by the clock", "of the processor")):
        plain, speedrun = np.median(times[:, :, k], axis=0)
        ratio = np.median(times[:, 1, k] / times[:, 0, k])
        print(f"ratio of step times {ratio:.3f}: {plain:.3f} and {speedrun:.3f} seconds {clock}")
    picture = args.picture or args.folder / "curves.png"
    draw(curves, target, picture)
    print(f"both curves: {picture}")


if __name__ == "__main__":
    main()
