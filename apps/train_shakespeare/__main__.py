"""Train a small GPT on the works of Shakespeare, and have it write some.

    hatch run train-shakespeare
    hatch run train-shakespeare --training.steps 500 --model.n-layers 4
    hatch run train-shakespeare --data my_book.txt --folder runs/my_book
    hatch run train-shakespeare --resume

It leaves a folder with the model (in Hugging Face's format), metrics.jsonl, loss.png, a sample
and checkpoints. Ctrl-C stops it after the current step, with a checkpoint; the same command with
--resume goes on exactly.
"""

import hashlib
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tricycle_bpe import StreamDecoder, Tokeniser
from tricycle_datasets import Batches, load_shakespeare, read_documents, split_text
from tricycle_gpt import (
    GPT,
    GPTConfig,
    TrainingConfig,
    end_politely,
    finish_run,
    follow,
    locked_run,
    make_run_folder,
    place,
    read_command_line,
    say,
    settle,
    train,
    write_sample,
    write_settings,
)


@dataclass(frozen=True)
class Arguments:
    """Train a small GPT on the works of Shakespeare, and have it write some.

    The run's folder gets the model (in Hugging Face's format), metrics.jsonl, loss.png, sample.txt
    and checkpoints. Ctrl-C stops after the current step, with a checkpoint.
    """

    folder: Path = Path("runs/shakespeare")
    """Where everything goes."""
    data: Path | None = None
    """Your own text instead of Shakespeare's: a .txt, .md or .jsonl file, or a folder of them."""
    tokeniser: Literal["bpe", "characters"] = "bpe"
    """Tokens are learned pieces of words (as many as model.vocab-size), or single characters."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: auto takes a GPU where one works, and says so."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    prompt: str = ""
    """What the sample starts with; if not given, a new line."""
    sample_tokens: int = 400
    """Length of the sample, in tokens."""
    temperature: float = 0.8
    """Of the sample: below 1 is more predictable, above 1 wilder, 0 takes the likeliest token."""
    track: bool = False
    """Show the run in MLflow: in ./mlflow.db (for `mlflow ui`) or at MLFLOW_TRACKING_URI."""
    config: Path | None = None
    """A TOML file with values for any of these settings, in sections [model] and [training]."""
    # Chosen for the fewest bits per byte after three minutes on two cores: a small model that sees
    # the text almost three times beats a larger one that sees it once.
    model: GPTConfig = field(
        default_factory=lambda: GPTConfig(
            vocab_size=2048,
            context_window=128,
            embedding_dim=128,
            n_layers=4,
            n_heads=4,
            block="llama",
            qk_norm=True,
        )
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=4400,
            batch_size=8,
            learning_rate=3e-3,
            final_learning_rate=0.0,
            warmup=50,
            evaluate_every=500,
            checkpoint_every=500,
            log_every=50,
        )
    )


def main() -> None:
    """Train, alone in the run's folder."""
    args = read_command_line(Arguments(), description=__doc__)
    device = settle(args.device, resumed=args.folder if args.resume else None)
    with locked_run(args.folder):
        run(args, device)


def run(args: Arguments, device: str) -> None:
    """Text, tokens, training, verse."""
    began = time.perf_counter()
    if not args.resume:
        make_run_folder(args.folder)
    text = load_shakespeare() if args.data is None else "\n\n".join(read_documents(args.data))
    training_text, validation_text = split_text(text)

    say(f"learning tokens from {len(training_text):,} characters")
    tokeniser = make_tokeniser(args, training_text, text)
    prompt = tokeniser.encode(args.prompt or first_prompt(training_text))
    ids, validation = (tokeniser.encode_to_numpy(part) for part in (training_text, validation_text))
    config = replace(args.model, vocab_size=tokeniser.n_vocab)
    config.family.format_of(config)  # an error now, not where the trained model is written
    model = GPT(config, rng=np.random.default_rng(args.training.seed))
    place(model, device)
    say(
        f"{len(ids):,} tokens to train on, {len(validation):,} to check with; a model of "
        f"{model.n_parameters():,} parameters; everything goes to {args.folder}"
    )
    batches = Batches(ids, args.training.batch_size, config.context_window, seed=args.training.seed)
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    write_settings(args.folder, args)
    tracker = None
    if args.track:
        name = args.data.name if args.data else "shakespeare"
        source = {"path": str(args.data or "tricycle")}
        tracker = follow(args.folder, model, name, digest, source, args.resume)
    result = train(
        model,
        batches,
        args.training,
        args.folder,
        validation=validation,
        validation_bytes=len(validation_text.encode()),
        resume=args.resume,
        facts={"tokens": digest},
        tracker=tracker,
    )
    sample = partial(
        write_sample,
        args.folder,
        model,
        StreamDecoder(tokeniser),
        prompt,
        args.sample_tokens,
        temperature=args.temperature,
        seed=args.training.seed,
    )
    more = "JULIET." if args.data is None else training_text.split()[0]
    seconds = time.perf_counter() - began
    finish_run(args.folder, model, tokeniser, result, sample, more, seconds, tracker)


def first_prompt(text: str) -> str:
    """A new line, or the first character of a text that has but one line."""
    return "\n" if "\n" in text else text[0]


def make_tokeniser(args: Arguments, training_text: str, text: str) -> Tokeniser:
    """Learn the tokens, from the training text alone; the same text gives the same tokens.

    Characters are not learned, and must be able to spell the validation text too.
    """
    if args.tokeniser == "characters":
        return Tokeniser.characters(text)
    return Tokeniser.train([training_text], args.model.vocab_size)


if __name__ == "__main__":
    farewell = "stopped; the same command with --resume goes on from the last checkpoint"
    end_politely(main, farewell, unheard=True)
