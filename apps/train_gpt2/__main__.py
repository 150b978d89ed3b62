"""Train a GPT-2 on your own text: documents, tokens, training, a sample.

help.txt says what can be asked of it, and what a run's folder gets: it is what --help prints.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tricycle_bpe import StreamDecoder, Tokeniser
from tricycle_datasets import (
    HUB_DATASETS,
    Batches,
    Prepared,
    Source,
    is_prepared,
    open_prepared,
    open_source,
    prepare,
    read_record,
)
from tricycle_gpt import (
    GPT,
    PRESETS,
    RECIPES,
    Communicator,
    GPTConfig,
    MLflowTracker,
    Plan,
    TrainingConfig,
    as_flags,
    can_track,
    choose_settings,
    communicate,
    end_politely,
    finish_run,
    follow,
    from_toml,
    generate,
    locked_run,
    make_run_folder,
    place,
    plan,
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
END_OF_TEXT = "<|endoftext|>"
LEARNED_FROM = 64_000_000  # bytes of text that tokens are learned from
BYTES_OF_A_TOKEN = 4  # of English text, about, for a plan


@dataclass(frozen=True)
class Arguments:
    """Train a GPT-2 on your own text."""

    preset: str = "auto"
    """One of those above: where all other values start from."""
    minutes: float = 10.0
    """Time that the training may take, for the preset auto."""
    data: str | None = None
    """A file, a folder, a name on the hub or prepared data; Shakespeare's works if not given."""
    text_field: str | None = None
    """The name by which records and tables have their text, such as message.content; text if not
    given."""
    skip_unreadable: bool = False
    """Leave out files, lines and rows that cannot be read, instead of listing them and ending."""
    max_tokens: int | None = None
    """Take about this many tokens of training text, the first ones; all of it if not given."""
    validation: float = 0.05
    """The share of the documents that is kept apart, to check with."""
    folder: Path = Path("runs/gpt2")
    """Where everything goes."""
    shards: Path | None = None
    """Where the encoded text goes, to be shared by runs; data/ in the folder if not given."""
    tokeniser: str | None = None
    """A folder with a tokenizer.json, or gpt2; if not given, model.vocab-size are learned."""
    workers: int = 2
    """Threads that encode text."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: auto takes a GPU where one works, and says so."""
    plan: bool = False
    """Say what the run would take (memory, time, FLOPs) from a few measured steps, and stop; auto
    chooses for the data if it is prepared already, or else for a text that is long enough."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    sample_tokens: int = 200
    """Length of the sample written at the end, in tokens."""
    track: bool = can_track()
    """Show the run in MLflow: in ./mlflow.db (for `mlflow ui`) or at MLFLOW_TRACKING_URI."""
    config: Path | None = None
    """A TOML file with values for any of these settings, in sections [model] and [training]."""
    model: GPTConfig = PRESETS["laptop"]
    training: TrainingConfig = RECIPES["laptop"]


RUNS = {"auto": Arguments()} | {
    name: Arguments(preset=name, model=PRESETS[name], training=recipe)
    for name, recipe in RECIPES.items()
}
# The preset from which a size that was chosen differs by the flags that are printed.
CHOSEN = "laptop"


def main() -> None:
    """Train: alone, or with the other ranks that mpiexec started."""
    began = time.perf_counter()
    with communicate() as ranks:
        args, named = read_command_line_of_run(
            Arguments(),
            description=HELP,
            presets=RUNS,
            began_with="config.toml",
            fixed=("data", "preset", "validation", "max_tokens"),
        )
        settle(args.device, quietly=ranks.rank > 0)  # an error now, not after hours of encoding
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
            run(args, named, ranks, began)


def run(args: Arguments, named: set[str], ranks: Communicator, began: float) -> None:
    """Documents, tokens, training, a sample."""
    is_first = ranks.rank == 0
    if not args.resume:
        make_run_folder(args.folder)
    if is_first:
        args = prepare_data(args, named, ranks.size)
    # The others wait here for what rank 0 has chosen, and then while it measures steps.
    args = from_toml(texts_of_all(ranks, to_toml(args))[0], RUNS[CHOSEN])
    tokeniser, data = open_data(args)
    config, recipe, planned, tracker = args.model, args.training, None, None
    if is_first:
        planned = planned_for(args, ranks)
        planned.refuse_what_does_not_fit(recipe)
        say(
            f"{len(data.train):,} tokens to train on, {len(data.validation):,} to check with; a "
            f"model of {planned.parameters:,} parameters; {planned.in_short()} expected; "
            f"everything goes to {args.folder}"
        )
        write_settings(args.folder, args, data.record)
    ranks.wait()

    model = GPT(config, rng=np.random.default_rng(recipe.seed))
    place(model, device_of(args))
    windows, _ = recipe.share(ranks.size)
    batches = Batches(
        data.train,
        windows,
        config.context_window,
        seed=recipe.seed,
        rank=ranks.rank,
        world=ranks.size,
    )
    if args.track and is_first:
        source = args.data or "shakespeare", data.train.digest, data.record["source"]
        tracker = follow(args.folder, model, *source, args.resume, ranks.size)
    # A text of one document has no beginning that follows an end; a line is the next best.
    many = len(data.train.document_starts) > 1
    start = [tokeniser.special_tokens[END_OF_TEXT]] if many else tokeniser.encode("\n")
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
    if is_first:
        decoder = StreamDecoder(tokeniser)
        sample = partial(write_sample, args.folder, model, decoder, start, args.sample_tokens)
        seconds = time.perf_counter() - began
        finish_run(args.folder, model, tokeniser, result, sample, "Once", seconds, tracker, planned)


def planned_for(args: Arguments, ranks: Communicator) -> Plan:
    """What the settings would take here."""
    besides, device = beside(args), device_of(args)
    return plan(args.model, args.training, besides=besides, communicator=ranks, device=device)


def device_of(args: Arguments) -> str:
    """ "cpu" or "cuda": "auto" stays in the settings, for the run may go on on another machine."""
    return settle(args.device, quietly=True)


def beside(args: Arguments) -> int:
    """Bytes that the tracker takes beside the training."""
    return MLflowTracker.memory if args.track else 0


def sized(args: Arguments, named: set[str], tokens: int | None, ranks: int) -> Arguments:
    """With the preset auto, the settings for this machine and that many tokens of text."""
    if args.preset != "auto":
        return args
    say(f"choosing a size for {args.minutes:g} minutes of training (--minutes)")
    besides, device = beside(args), device_of(args)
    args = choose_settings(args, named, tokens, besides=besides, ranks=ranks, device=device)
    say(f"chosen: --preset {CHOSEN} {as_flags(args, RUNS[CHOSEN], 'model', 'training')}")
    return replace(args, preset=CHOSEN)


def foreseen(args: Arguments, named: set[str], ranks: int) -> Arguments:
    """The settings to plan for: for the data, if it is prepared, or a text that is long enough."""
    place = place_of_data(args)
    # What lies in the folder itself may be another text, unless the run there is to go on.
    ours = args.resume or args.shards is not None or place == Path(args.data or "")
    if ours or args.tokeniser is not None:
        args = speaking(args, known_tokeniser(args, place))
    record = (read_record(place) if ours else None) or {}
    tokens = record.get("train", {}).get("n_tokens") or expected_tokens(args)
    return sized(args, named, tokens, ranks)


def expected_tokens(args: Arguments) -> int | None:
    """About how many tokens the training text of the user's own files has; all of it is read.

    None for the works of Shakespeare, and for datasets of the hub, which nobody reads whole.
    FileNotFoundError for a path that is not there, ValueError for what cannot be read.
    """
    word = args.data or ""
    is_hub = word.startswith("hub:") or (word in HUB_DATASETS and not Path(word).exists())
    if args.data is None or is_hub or is_prepared(args.data):
        return None
    source = source_of(args)
    n_bytes = sum(len(text.encode()) for text in source.training())
    tokens = n_bytes // BYTES_OF_A_TOKEN
    say(f"{source.name}: {n_bytes:,} bytes to train on, about {tokens:,} tokens")
    return max(1, tokens)


def source_of(args: Arguments, record: dict | None = None) -> Source:
    """The texts that the settings name."""
    return open_source(
        args.data,
        args.validation,
        field=args.text_field,
        record=record,
        skip_unreadable=args.skip_unreadable,
    )


def prepare_data(args: Arguments, named: set[str], ranks: int) -> Arguments:
    """Encode both sides of the data, unless they are, and choose a size for them."""
    place = place_of_data(args)
    tokeniser = known_tokeniser(args, place)
    if tokeniser is not None and args.tokeniser is None:
        say(f"the tokens are those of {place}")
    args = speaking(args, tokeniser)
    if not (is_prepared(place) and (args.resume or place == Path(args.data or ""))):
        before = read_record(place) or {}
        then = before.get("source")
        source = source_of(args, then)
        if source.is_hub and args.max_tokens is None:
            args = args if before else sized(args, named, None, ranks)
            tokens = before.get("max_tokens") or args.training.tokens(args.model.context_window)
            args = replace(args, max_tokens=tokens)
        if tokeniser is None:
            vocabulary, ends = args.model.vocab_size, [END_OF_TEXT]
            say(f"learning {vocabulary} tokens")
            texts = source.beginning(LEARNED_FROM)
            tokeniser = Tokeniser.train(texts, vocabulary, special_tokens=ends)
        if not is_prepared(place):
            say(f"encoding {source.name} to {place}")
        prepare(source, place, tokeniser, workers=args.workers, max_tokens=args.max_tokens)
    tokeniser, data = open_data(args)
    return sized(speaking(args, tokeniser), named, len(data.train), ranks)


def open_data(args: Arguments) -> tuple[Tokeniser, Prepared]:
    """The tokeniser and both sides of data that is prepared.

    ValueError if the data was made by another tokeniser than the one asked for.
    """
    place = place_of_data(args)
    tokeniser = known_tokeniser(args, place)
    assert tokeniser is not None  # prepared data has one
    return tokeniser, open_prepared(place, tokeniser.fingerprint())


def place_of_data(args: Arguments) -> Path:
    """Where the encoded text is, or will be."""
    if args.data is not None and is_prepared(args.data):
        return Path(args.data)
    return args.shards or args.folder / "data"


def known_tokeniser(args: Arguments, place: Path) -> Tokeniser | None:
    """The tokeniser asked for, or that of data whose preparation has started; None for neither."""
    if args.tokeniser is not None:
        tokeniser = Tokeniser.open(args.tokeniser)
        if END_OF_TEXT not in tokeniser.special_tokens:
            raise ValueError(f"the tokeniser in {args.tokeniser} has no {END_OF_TEXT} token")
        return tokeniser
    return Tokeniser.load(place) if (place / "data.json").is_file() else None


def speaking(args: Arguments, tokeniser: Tokeniser | None) -> Arguments:
    """The settings of a model that knows as many tokens as a tokeniser has."""
    vocabulary = tokeniser.n_vocab if tokeniser else args.model.vocab_size
    return replace(args, model=replace(args.model, vocab_size=vocabulary))


if __name__ == "__main__":
    farewell = "stopped; the same command with --resume goes on from the last checkpoint"
    end_politely(main, farewell, unheard=True)
