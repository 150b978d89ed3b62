"""Train a GPT-2 on your own text.

    hatch run train-gpt2 --data my_texts/                     a small one, for a laptop
    hatch run train-gpt2 --data my_texts/ --preset gpt2       GPT-2 itself: 124 million parameters
    hatch run train-gpt2 --data my_texts/ --tokeniser folder  with a tokeniser made before
    hatch run train-gpt2 --data my_texts/ --resume            go on after Ctrl-C
    hatch run train-gpt2 --preset gpt2 --plan                 what it would take; trains nothing

Documents are dealt to training and validation before anything is learned from them. The run's
folder gets the model (in Hugging Face's format), metrics.jsonl, loss.png, a sample and checkpoints.
"""

import hashlib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tricycle_bpe import StreamDecoder, Tokeniser
from tricycle_datasets import Batches, load_shakespeare, read_documents, split_documents, split_text
from tricycle_gpt import (
    GPT,
    PRESETS,
    GPTConfig,
    MLflowTracker,
    TrainingConfig,
    can_track,
    flops_per_token,
    measured_peak_flops,
    plan,
    train,
    write_results,
    write_sample,
)
from tricycle_gpt.command_line import end_politely, read_command_line

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Arguments:
    """Train a GPT-2 on your own text."""

    preset: str = "laptop"
    """laptop, gpt2, gpt2-medium, gpt2-large or gpt2-xl: where all other values start from."""
    data: Path | None = None
    """A .txt, .md or .jsonl file, or a folder of them; Shakespeare's works if not given."""
    folder: Path = Path("runs/gpt2")
    """Where everything goes."""
    tokeniser: Path | None = None
    """A folder with a tokenizer.json; if not given, one with model.vocab-size tokens is learned
    from the training text."""
    plan: bool = False
    """Say what the run would take (memory, time, FLOPs) from a few measured steps, and stop."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    sample_tokens: int = 200
    """Length of the sample written at the end, in tokens."""
    track: bool = can_track()
    """Follow the run with MLflow, on where it is installed: kept in ./mlflow.db and shown by
    `mlflow ui`, or where MLFLOW_TRACKING_URI says."""
    config: Path | None = None
    """A TOML file with values for any of these settings, in sections [model] and [training]."""
    model: GPTConfig = field(
        default_factory=lambda: GPTConfig(
            vocab_size=4096, context_window=256, embedding_dim=256, n_layers=6, n_heads=8
        )
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=2000, learning_rate=2e-3, batch_size=8)
    )


# The original's recipe: half a million tokens a step, by accumulation.
GPT2_RECIPE = TrainingConfig(
    steps=20_000,
    batch_size=4,
    micro_batches=128,
    learning_rate=6e-4,
    final_learning_rate=6e-5,
    warmup=700,
    beta2=0.95,
    checkpoint_every=100,
    log_every=1,
)

RUNS = {
    "laptop": Arguments(),
    **{
        name: Arguments(preset=name, model=PRESETS[name], training=GPT2_RECIPE)
        for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    },
}


def main() -> None:
    """Documents, tokens, training, a sample."""
    args = read_command_line(Arguments(), description=__doc__, presets=RUNS)
    if args.plan:
        say(str(plan(args.model, args.training)))
        return
    training, validation = read_text(args.data)
    tokeniser = make_tokeniser(args, training)
    ids, validation_ids = (encode(tokeniser, documents) for documents in (training, validation))
    config = replace(args.model, vocab_size=tokeniser.n_vocab)
    model = GPT(config, rng=np.random.default_rng(args.training.seed))
    say(
        f"{len(ids):,} tokens to train on, {len(validation_ids):,} to check with; a model of "
        f"{model.n_parameters():,} parameters; everything goes to {args.folder}"
    )
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    tracker = make_tracker(args, model, digest) if args.track else None
    result = train(
        model,
        Batches(ids, args.training.batch_size, config.context_window, seed=args.training.seed),
        args.training,
        args.folder,
        validation=validation_ids,
        validation_bytes=sum(len(document.encode()) for document in validation),
        resume=args.resume,
        facts={"tokens": digest},
        tracker=tracker,
    )
    model_folder = write_results(args.folder, model, tokeniser)
    if not result.finished:
        if tracker:
            tracker.end("interrupted")
        say(f"stopped after {result.steps} steps. Go on with the same command and --resume")
        return
    start = [tokeniser.special_tokens[END_OF_TEXT]]
    write_sample(args.folder, model, StreamDecoder(tokeniser), start, args.sample_tokens)
    if tracker:
        keep_results(tracker, args.folder, model_folder)
    say(f'Generate more:  hatch run generate --model {model_folder} --prompt "Once"')


def make_tracker(args: Arguments, model: GPT, digest: str) -> MLflowTracker:
    """MLflow's view of this run."""
    tracker = MLflowTracker(
        args.folder.name,
        flops_per_token=flops_per_token(model),
        peak_flops=measured_peak_flops(),
        say=say,
    )
    source = "shakespeare" if args.data is None else args.data.name
    tracker.data(source, digest, str((args.data or Path(source)).resolve()))
    return tracker


def keep_results(tracker: MLflowTracker, folder: Path, model_folder: Path) -> None:
    """Hand MLflow what the run left: picture, sample, newest checkpoint, and the model."""
    for name in ("loss.png", "sample.txt", "metrics.jsonl"):
        tracker.file(folder / name)
    checkpoints = sorted((folder / "checkpoints").glob("step-*[0-9]"))
    if checkpoints:
        tracker.file(checkpoints[-1], f"checkpoints/{checkpoints[-1].name}")
    tracker.model(model_folder, folder.name)
    tracker.end("finished")


def read_text(data: Path | None) -> tuple[list[str], list[str]]:
    """Documents to train on, and documents to check with; a lone document is cut in two."""
    documents = [load_shakespeare()] if data is None else list(read_documents(data))
    if len(documents) < 20:
        training, validation = split_text("\n\n".join(documents))
        return [training], [validation]
    return split_documents(documents, validation=0.05)


def make_tokeniser(args: Arguments, documents: list[str]) -> Tokeniser:
    """The tokeniser in a folder, or one learned from the training text alone."""
    if args.tokeniser is None:
        say(f"learning {args.model.vocab_size} tokens")
        return Tokeniser.train(documents, args.model.vocab_size, special_tokens=[END_OF_TEXT])
    tokeniser = Tokeniser.load(args.tokeniser)
    if END_OF_TEXT not in tokeniser.special_tokens:
        raise ValueError(f"the tokeniser in {args.tokeniser} has no {END_OF_TEXT} token")
    return tokeniser


def encode(tokeniser: Tokeniser, documents: list[str]) -> np.ndarray:
    """All documents in one row of ids, an end-of-text token before each, as GPT-2 had it."""
    end = np.array([tokeniser.special_tokens[END_OF_TEXT]], np.uint32)
    parts = [part for text in documents for part in (end, tokeniser.encode_to_numpy(text))]
    return np.concatenate(parts)


def say(text: str) -> None:
    """Tell the user; the sample alone goes to standard output."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    end_politely(main, "stopped; the same command with --resume goes on from the last checkpoint")
