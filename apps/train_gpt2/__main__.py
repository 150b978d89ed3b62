"""Train a GPT-2 on your own text.

Examples:
    hatch run train-gpt2 --data my_texts/
    hatch run train-gpt2 --data book.txt --minutes 30
    hatch run train-gpt2 --data my_texts/ --preset gpt2 --folder runs/big
    hatch run train-gpt2 --data fineweb-edu --tokeniser gpt2 --preset gpt2
    hatch run train-gpt2 --config mine.toml --training.steps 500
    hatch run train-gpt2 --data my_texts/ --resume      go on after a stop
    hatch run train-gpt2 --preset gpt2 --plan           say what it takes
    hatch run mpiexec -n 2 python apps/train_gpt2 --data my_texts/

Presets, where all values not given start from:
    auto         a model sized for this machine, the text and --minutes: a few
                 sizes are measured, and the choice is printed as flags
    laptop       6 layers, 256 wide, context 256; 2,000 steps of 2,048 tokens
    gpt2         GPT-2 itself, 124 million parameters, by the original's recipe:
                 4,747 steps of 524,288 tokens, in batches of 4 windows
    gpt2-medium  355 million parameters, by the same recipe
    gpt2-large   774 million
    gpt2-xl      1,558 million
    speedrun     gpt2's size by what has been learned since (Llama's block,
                 Muon): 2,611 such steps

Data, read one document at a time:
    a file       .txt and .md are a document each; .jsonl, .jsonl.xz, .parquet
                 have one a line or row, named "text" (--text-field)
    a folder     of such files, and of folders
    from the hub fineweb, fineweb-edu, openwebtext, codeparrot, hub:owner/name;
                 as much as the steps will look at, or --max-tokens
    prepared     the data/ of another run, or what --shards made: as it is

Settings in a file: every flag is a line in it too, and flags win:
    data = "my_texts"
    preset = "laptop"
    [model]
    n_layers = 8
    [training]
    steps = 5000

What happens:
    Documents are dealt to training and validation before anything is learned
    from them. Tokens are learned from the first 64 MB of training text. Both
    sides are encoded to files, each document with an end-of-text token after
    it. A few steps are measured, and the run is refused, with a batch that
    fits, if memory would not do. Ctrl-C or SIGTERM stops after a step, with a
    checkpoint; --resume goes on to the same bits, with the settings the run
    began with, and flags for one session (how often it logs, looks and saves,
    what it does about bad steps); encoding, too, goes on where it was. Started
    by mpiexec, that many processes share each batch: the same steps, in less
    time, on as many machines as see the folder.

What the folder gets:
    model/         in Hugging Face's format, with its tokeniser
    metrics.jsonl  a line a step           loss.png     drawn as it runs
    samples/       what it writes by then  sample.txt   and at the end
    checkpoints/   to go on from           config.toml  what it began with
    plan.json      time and memory, expected and taken
    data/          the encoded text        data.json    what text it was
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tricycle_bpe import StreamDecoder, Tokeniser
from tricycle_datasets import (
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
    choose_size,
    communicate,
    compare_with_plan,
    duration,
    end_politely,
    ended_if_it_fails,
    follow,
    from_toml,
    generate,
    hand_over,
    make_run_folder,
    named_settings,
    plan,
    read_command_line,
    read_config,
    texts_of_all,
    to_toml,
    train,
    with_named,
    write_results,
    write_sample,
    write_settings,
)

END_OF_TEXT = "<|endoftext|>"
LEARNED_FROM = 64_000_000  # bytes of text that tokens are learned from


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
    """The name by which .jsonl and .parquet files have their text; text if not given."""
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
    with communicate() as communicator:
        run(read_settings(), communicator)


def run(args: Arguments, communicator: Communicator) -> None:
    """Documents, tokens, training, a sample."""
    is_first, ranks = communicator.rank == 0, communicator.size
    if args.plan:
        if is_first:
            say(str(planned_for(foreseen(args, ranks), communicator)))
        return
    if args.preset != "auto":
        # Both may refuse, before anything is written.
        args.training.share(ranks)
        args.model.family.format_of(args.model)
    if not args.resume:
        make_run_folder(args.folder)
    if is_first:
        args = prepare_data(args, ranks)
    args = those_of_rank_0(args, communicator)
    tokeniser, data = open_data(args)
    if is_first:
        planned = announce(args, data, communicator)
        write_settings(args.folder, args, data.record)
    communicator.wait()  # steps are measured while the others do nothing
    recipe = args.training
    config = args.model
    windows, _ = recipe.share(ranks)
    model = GPT(config, rng=np.random.default_rng(recipe.seed))
    batches = Batches(
        data.train,
        windows,
        config.context_window,
        seed=recipe.seed,
        rank=communicator.rank,
        world=ranks,
    )
    tracker = None
    if args.track and is_first:
        source = args.data or "shakespeare", data.train.digest, data.record["source"]
        tracker = follow(args.folder, model, *source, say, args.resume, ranks)
    # A text of one document has no beginning that follows an end; a line is the next best.
    many = len(data.train.document_starts) > 1
    start = [tokeniser.special_tokens[END_OF_TEXT]] if many else tokeniser.encode("\n")

    def sample() -> str:
        return tokeniser.decode(list(generate(model, start, min(64, args.sample_tokens))))

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
        sample=sample,
        communicator=communicator,
    )
    if not is_first:
        return
    with ended_if_it_fails(tracker):
        compare_with_plan(args.folder, planned)
        model_folder = write_results(args.folder, model, tokeniser)
        if not result.finished:
            if tracker:
                tracker.end("interrupted")
            say(f"stopped after {result.steps} steps. Go on with the same command and --resume")
            return
        write_sample(args.folder, model, StreamDecoder(tokeniser), start, args.sample_tokens)
        if tracker:
            hand_over(args.folder, model_folder, tracker)
    say(f'Generate more:  hatch run generate --model {model_folder} --prompt "Once"')


def tracker_memory(args: Arguments) -> int:
    """Bytes that the tracker takes beside the training."""
    return MLflowTracker.memory if args.track else 0


def planned_for(args: Arguments, communicator: Communicator) -> Plan:
    """What a run with these settings takes, with the tracker beside it."""
    besides = tracker_memory(args)
    return plan(args.model, args.training, besides=besides, communicator=communicator)


def announce(args: Arguments, data: Prepared, communicator: Communicator) -> Plan:
    """Say what the run will be and take, or refuse it: ValueError with a batch that fits."""
    planned = planned_for(args, communicator)
    planned.refuse_what_does_not_fit(args.training)
    say(
        f"{len(data.train):,} tokens to train on, {len(data.validation):,} to check with; a "
        f"model of {planned.parameters:,} parameters; {duration(planned.seconds)} and "
        f"{planned.memory / 1e9:.2f} GB expected; everything goes to {args.folder}"
    )
    return planned


def read_settings() -> Arguments:
    """The command line's settings; to a run that is resumed those it began with are known."""
    args = read_command_line(
        Arguments(), description=__doc__, presets=RUNS, began_with="config.toml"
    )
    file = args.folder / "config.toml"
    if not args.resume or not file.is_file():
        return args
    then = read_config(file, RUNS[CHOSEN])
    if args.preset == "auto":  # what was chosen when it began is in that file, and stays
        args = replace(args, preset=CHOSEN)
    if are_one_place(args.data, then.data):
        args = replace(args, data=then.data)
    for name in ("data", "preset", "validation", "max_tokens"):
        if (now := getattr(args, name)) != (was := getattr(then, name)):
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"the run in {args.folder} was begun with {flag} {was}, not {now}: leave {flag} "
                "out, or choose another folder"
            )
    return args


def those_of_rank_0(args: Arguments, communicator: Communicator) -> Arguments:
    """Rank 0's settings, on every rank; the others wait here until it has chosen a size."""
    if communicator.size == 1:
        return args
    text = texts_of_all(communicator, to_toml(args))[0]
    return from_toml(text, RUNS[CHOSEN]) if communicator.rank else args


def are_one_place(a: str | None, b: str | None) -> bool:
    """Whether two words are the same path, as my_texts and my_texts/ are."""
    return a is not None and b is not None and Path(a).resolve() == Path(b).resolve()


def foreseen(args: Arguments, ranks: int) -> Arguments:
    """The settings to plan for: for the data, if it is prepared, or a text that is long enough."""
    place = place_of_data(args)
    # What lies in the folder itself may be another text, unless the run there is to go on.
    ours = args.resume or args.shards is not None or are_one_place(args.data, str(place))
    tokeniser = known_tokeniser(args, place) if ours or args.tokeniser else None
    if tokeniser is not None:
        args = speaking(args, tokeniser)
    record = (read_record(place) if ours else None) or {}
    return sized(args, record.get("train", {}).get("n_tokens"), ranks)


def speaking(args: Arguments, tokeniser: Tokeniser) -> Arguments:
    """The settings of a model that knows as many tokens as a tokeniser has."""
    return replace(args, model=replace(args.model, vocab_size=tokeniser.n_vocab))


def sized(args: Arguments, tokens: int | None, ranks: int) -> Arguments:
    """With the preset auto, the settings for this machine and that many tokens of text."""
    if args.preset != "auto":
        return args
    say(f"choosing a size for {args.minutes:g} minutes of training (--minutes)")
    vocabulary = args.model.vocab_size
    model, training = choose_size(
        vocabulary,
        tokens,
        args.minutes,
        seed=args.training.seed,
        besides=tracker_memory(args),
        ranks=ranks,
    )
    named = named_settings()  # which are not for choosing; and the tokens are those that are there
    model = replace(with_named(model, args.model, "model", named), vocab_size=vocabulary)
    training = with_named(training, args.training, "training", named)
    args = replace(args, preset=CHOSEN, model=model, training=training)
    say(f"chosen: --preset {CHOSEN} {as_flags(args, RUNS[CHOSEN], 'model', 'training')}")
    return args


def prepare_data(args: Arguments, ranks: int) -> Arguments:
    """Encode both sides of the data, unless they are, and choose a size for them."""
    place = place_of_data(args)
    tokeniser = known_tokeniser(args, place)
    if tokeniser is not None:
        if args.tokeniser is None:
            say(f"the tokens are those of {place}")
        args = speaking(args, tokeniser)
    if not (is_prepared(place) and (args.resume or are_one_place(args.data, str(place)))):
        before = read_record(place) or {}
        then = before.get("source")
        source = open_source(args.data, args.validation, field=args.text_field, record=then)
        if source.is_hub and args.max_tokens is None:
            args = args if before else sized(args, None, ranks)
            tokens = before.get("max_tokens") or args.training.tokens(args.model.context_window)
            args = replace(args, max_tokens=tokens)
        if tokeniser is None:
            tokeniser = learn_tokens(args, source)
        if not is_prepared(place):
            say(f"encoding {source.name} to {place}")
        prepare(source, place, tokeniser, workers=args.workers, max_tokens=args.max_tokens)
    tokeniser, data = open_data(args)
    return sized(speaking(args, tokeniser), len(data.train), ranks)


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
    if (place / "data.json").is_file():
        return Tokeniser.load(place)
    return None


def learn_tokens(args: Arguments, source: Source) -> Tokeniser:
    """A tokeniser learned from the beginning of the training text."""
    say(f"learning {args.model.vocab_size} tokens")
    texts = source.beginning(LEARNED_FROM)
    return Tokeniser.train(texts, args.model.vocab_size, special_tokens=[END_OF_TEXT])


def say(text: str) -> None:
    """Tell the user; the sample alone goes to standard output."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    end_politely(main, "stopped; the same command with --resume goes on from the last checkpoint")
