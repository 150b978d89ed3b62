"""Train a GPT-2 on your own text: documents, tokens, training, a sample.

help.txt says what can be asked of it, and what a run's folder gets: it is what --help prints.

    settings   what can be asked        texts   which tokens, and where their ids are
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from settings import CHOSEN, RUNS, Arguments, Device, planned_for, weights, with_weights
from texts import foreseen, open_data, prepare_data

from tricycle_bpe import StreamDecoder
from tricycle_datasets import Batches, Prepared
from tricycle_gpt import (
    GPT,
    Communicator,
    communicate,
    end_politely,
    finish_run,
    follow,
    from_toml,
    generate,
    locked_run,
    make_run_folder,
    place,
    read_command_line_of_run,
    say,
    settle,
    texts_of_all,
    to_toml,
    train,
    write_sample,
    write_settings,
)

HELP = Path(__file__).with_name("help.txt").read_text(encoding="utf-8")


def main() -> None:
    """Train: alone, or with the other ranks that mpiexec started."""
    began = time.perf_counter()
    with communicate() as ranks:
        args, named = read_command_line_of_run(
            Arguments(),
            description=HELP,
            presets=RUNS,
            began_with="config.toml",
            fixed=("data", "preset", "validation", "max_tokens", "from_", "chat"),
        )
        # An error now, not after hours of encoding.
        asked = args.device
        device = settle(asked, ranks, resumed=args.folder if args.resume else None)
        args = replace(args, device=device)
        args = with_weights(args, named)
        if args.plan:
            if ranks.rank == 0:
                args = foreseen(args, named, ranks.size)
                say(str(planned_for(args, ranks)))
            return
        if args.preset != "auto":
            # Both may refuse, before anything is written.
            args.training.share(ranks.size)
            args.model.family.format_of(args.model)
        with locked_run(args.folder, ranks):
            run(args, asked, named, ranks, began)


def run(args: Arguments, asked: Device, named: set[str], ranks: Communicator, began: float) -> None:
    """Documents, tokens, training, a sample.

    asked  for this device; it stays in the run's settings, for it may go on on another machine
    """
    is_first = ranks.rank == 0
    if not args.resume:
        make_run_folder(args.folder)
    if is_first:
        args = prepare_data(args, named, ranks.size)
    # The others wait here for what rank 0 has chosen, and then while it measures steps.
    args = from_toml(texts_of_all(ranks, to_toml(args))[0], RUNS[CHOSEN])
    tokeniser, data = open_data(args)
    config, recipe, planned, tracker = args.model, args.training, None, None
    begins_with = weights(args.from_)
    if is_first:
        planned = planned_for(args, ranks)
        planned.refuse_what_does_not_fit(recipe)
        say(
            f"{len(data.train):,} tokens to train on, {len(data.validation):,} to check with; a "
            f"model of {planned.parameters:,} parameters; {planned.in_short()} expected; "
            f"everything goes to {args.folder}"
        )
        record = {"weights": begins_with.record()} if begins_with else {}
        settings = replace(args, device=asked)
        write_settings(args.folder, settings, data.record | record)
    ranks.wait()

    if begins_with:
        model = begins_with.model(config, recipe.seed)
    else:
        model = GPT(config, rng=np.random.default_rng(recipe.seed))
    place(model, args.device)
    windows, _ = recipe.share(ranks.size)
    batches = Batches(
        data.train,
        windows,
        config.context_window,
        seed=recipe.seed,
        rank=ranks.rank,
        world=ranks.size,
        counted=None if isinstance(data, Prepared) else data.train.counted,
    )
    if args.track and is_first:
        source = args.data or "shakespeare", data.train.digest, data.record["source"]
        tracker = follow(args.folder, model, *source, args.resume, ranks.size)
    # A text of one document has no beginning that follows an end; a line is the next best.
    many = len(data.train.document_starts) > 1
    end = tokeniser.special_tokens[data.end_of_text]
    start = [end] if many else tokeniser.encode("\n")
    if not isinstance(data, Prepared):
        start = data.validation.opening
    result = train(
        model,
        batches,
        recipe,
        args.folder,
        validation=data.validation,
        validation_bytes=data.validation_bytes,
        resume=args.resume,
        facts=data.facts(),
        tracker=tracker,
        sample=lambda: tokeniser.decode([*generate(model, start, min(64, args.sample_tokens))]),
        communicator=ranks,
    )
    if begins_with:
        begins_with.as_it_came(model)
    if is_first:
        decoder = StreamDecoder(tokeniser)
        sample = partial(write_sample, args.folder, model, decoder, start, args.sample_tokens)
        seconds = time.perf_counter() - began
        about = (sample, "Once", seconds, tracker, planned, recipe, args.licence)
        finish_run(args.folder, model, tokeniser, result, *about)


if __name__ == "__main__":
    farewell = "stopped; the same command with --resume goes on from the last checkpoint"
    end_politely(main, farewell, unheard=True)
