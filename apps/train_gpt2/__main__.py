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
    sides are encoded to files, each document with an end-of-text token behind
    it. A few steps are measured, and the run is refused, with a batch that
    fits, if memory would not do. Ctrl-C or SIGTERM stops after a step, with a
    checkpoint; --resume goes on to the same bits, with the settings the run
    began with, and flags for one session (how often it logs, looks and saves,
    what it does about bad steps); encoding, too, goes on where it was. Started
    by mpiexec, so many processes share each batch: the same steps, in less
    time, on as many machines as see the folder.

What the folder gets:
    model/         in Hugging Face's format, with its tokeniser
    metrics.jsonl  a line a step           loss.png     drawn as it runs
    samples/       what it writes by then  sample.txt   and at the end
    checkpoints/   to go on from           config.toml  what it began with
    plan.json      time and memory, foretold and taken
    data/          the encoded text        data.json    what text it was
"""

import sys
from dataclasses import dataclass, field, replace
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
    Communicator,
    GPTConfig,
    Plan,
    TrainingConfig,
    can_track,
    choose_size,
    communicate,
    compare_with_plan,
    follow,
    generate,
    hand_over,
    plan,
    train,
    write_results,
    write_sample,
    write_settings,
)
from tricycle_gpt.runs import tracking
from tricycle_gpt.runs.command_line import as_flags, end_politely, read_command_line, read_config
from tricycle_gpt.runs.progress import duration
from tricycle_gpt.runs.resuming import make_run_folder

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
    """Take about so many tokens of training text, the first ones; all of it if not given."""
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
    """Show the run in MLflow: in ./mlflow.db (see it by mlflow ui) or at MLFLOW_TRACKING_URI."""
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


# The original's recipe: half a million tokens a step, by accumulation; 20 tokens a parameter.
GPT2_RECIPE = TrainingConfig(
    steps=4_747,
    batch_size=4,
    micro_batches=128,
    learning_rate=6e-4,
    final_learning_rate=0.0,
    warmup=150,
    beta2=0.95,
    checkpoint_every=100,
    log_every=1,
)

# What has been learned since, in 0.55 of the tokens: see tricycle-gpt's README.
SPEEDRUN_RECIPE = replace(
    GPT2_RECIPE,
    steps=2_611,
    learning_rate=3.6e-3,
    warmup=130,
    schedule="warmup-stable-decay",
    decay=1_305,
    optimiser="muon",
    weight_decay=0.0,
)

RUNS = {
    "auto": Arguments(),
    "laptop": Arguments(preset="laptop"),
    **{
        name: Arguments(preset=name, model=PRESETS[name], training=GPT2_RECIPE)
        for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    },
    "speedrun": Arguments(preset="speedrun", model=PRESETS["speedrun"], training=SPEEDRUN_RECIPE),
}


def main() -> None:
    """Train: alone, or with the other ranks that mpiexec started."""
    with communicate() as ranks:
        run(ranks)


def run(ranks: Communicator) -> None:
    """Documents, tokens, training, a sample."""
    args = read_settings()
    if args.plan:
        if ranks.rank == 0:
            say(str(planned_for(foreseen(args, ranks.size), ranks)))
        return
    if args.preset != "auto":
        args.training.share(ranks.size)  # which may refuse, before anything is written
    if not args.resume:
        make_run_folder(args.folder)
    if ranks.rank:
        ranks.sum(0)  # rank 0 has chosen a size, encoded the text and written the settings down
        args = replace(read_settings(begun=True), resume=True)
    args, tokeniser, data = prepare_data(args, ranks.size)
    recipe = args.training
    config = args.model
    windows, _ = recipe.share(ranks.size)
    if ranks.rank == 0:
        planned = announce(args, data, ranks)
        write_settings(args.folder, args, data.record)
        ranks.sum(0)
    model = GPT(config, rng=np.random.default_rng(recipe.seed))
    batches = Batches(
        data.train,
        windows,
        config.context_window,
        seed=recipe.seed,
        rank=ranks.rank,
        world=ranks.size,
    )
    tracker = None
    if args.track and ranks.rank == 0:
        source = args.data or "shakespeare", data.train.digest, data.record["source"]
        tracker = follow(args.folder, model, *source, say, args.resume, ranks.size)
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
        communicator=ranks,
    )
    if ranks.rank:
        return
    with tracking.ended_if_it_fails(tracker):
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


def planned_for(args: Arguments, ranks: Communicator) -> Plan:
    """What a run with these settings takes, with the tracker beside it."""
    memory = args.track * tracking.MEMORY
    return plan(args.model, args.training, besides=memory, communicator=ranks)


def announce(args: Arguments, data: Prepared, ranks: Communicator) -> Plan:
    """Say what the run will be and take, or refuse it: ValueError with a batch that fits."""
    planned = planned_for(args, ranks)
    planned.refuse_what_does_not_fit(args.training)
    say(
        f"{len(data.train):,} tokens to train on, {len(data.validation):,} to check with; a "
        f"model of {planned.parameters:,} parameters; {duration(planned.seconds)} and "
        f"{planned.memory / 1e9:.2f} GB foretold; everything goes to {args.folder}"
    )
    return planned


def read_settings(begun: bool = False) -> Arguments:
    """The command line's settings; those a run began with are known to one that goes on.

    begun  the run has begun, even if it was not asked to go on
    """
    args = read_command_line(Arguments(), description=__doc__, presets=RUNS)
    file = args.folder / "config.toml"
    if not (args.resume or begun) or not file.is_file():
        return args
    args = read_command_line(Arguments(), description=__doc__, presets=RUNS, begun=file)
    then = read_config(file, RUNS["laptop"])
    if args.preset == "auto":  # what it chose then is in that file, and stays
        args = replace(args, preset="laptop")
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
    """With the preset auto, the settings for this machine and so many tokens of text."""
    if args.preset != "auto":
        return args
    say(f"choosing a size for {args.minutes:g} minutes of training (--minutes)")
    vocabulary = args.model.vocab_size
    chosen = choose_size(
        vocabulary,
        tokens,
        args.minutes,
        seed=args.training.seed,
        besides=args.track * tracking.MEMORY,
        ranks=ranks,
    )
    auto = replace(RUNS["auto"], model=chosen[0], training=chosen[1])
    args = read_command_line(auto, description=__doc__, presets={**RUNS, "auto": auto})
    # The preset from which the choice differs by these flags; and the tokens that are there.
    args = replace(args, preset="laptop", model=replace(args.model, vocab_size=vocabulary))
    say(f"chosen: --preset laptop {as_flags(args, RUNS['laptop'], 'model', 'training')}")
    return args


def prepare_data(args: Arguments, ranks: int) -> tuple[Arguments, Tokeniser, Prepared]:
    """The tokeniser and both sides of the data, encoded now or before; and the size chosen."""
    place = place_of_data(args)
    tokeniser = known_tokeniser(args, place)
    if tokeniser is not None:
        args = speaking(args, tokeniser)
    if not (is_prepared(place) and (args.resume or are_one_place(args.data, str(place)))):
        begun = read_record(place) or {}
        then = begun.get("source")
        source = open_source(args.data, args.validation, field=args.text_field, record=then)
        if source.is_hub and args.max_tokens is None:
            args = args if begun else sized(args, None, ranks)
            tokens = begun.get("max_tokens") or args.training.tokens(args.model.context_window)
            args = replace(args, max_tokens=tokens)
        if tokeniser is None:
            tokeniser = learn_tokens(args, source)
        if not is_prepared(place):
            say(f"encoding {source.name} to {place}")
        prepare(source, place, tokeniser, workers=args.workers, max_tokens=args.max_tokens)
    assert tokeniser is not None  # prepared data has one
    data = open_prepared(place, tokeniser.fingerprint())
    return sized(speaking(args, tokeniser), len(data.train), ranks), tokeniser, data


def place_of_data(args: Arguments) -> Path:
    """Where the encoded text is, or will be."""
    if args.data is not None and is_prepared(args.data):
        return Path(args.data)
    return args.shards or args.folder / "data"


def known_tokeniser(args: Arguments, place: Path) -> Tokeniser | None:
    """The tokeniser asked for, or that of data whose preparation has begun; None for neither."""
    if args.tokeniser is not None:
        tokeniser = Tokeniser.open(args.tokeniser)
        if END_OF_TEXT not in tokeniser.special_tokens:
            raise ValueError(f"the tokeniser in {args.tokeniser} has no {END_OF_TEXT} token")
        return tokeniser
    if (place / "data.json").is_file():
        say(f"the tokens are those of {place}")
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
