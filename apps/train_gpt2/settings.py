"""What train-gpt2 can be asked, and the model and recipe that come of it."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from tricycle_datasets import hub_model, is_hub_model
from tricycle_gpt import (
    FINE_TUNING,
    PRESETS,
    RECIPES,
    Communicator,
    GPTConfig,
    MLflowTracker,
    Plan,
    StartingWeights,
    TrainingConfig,
    as_flags,
    can_track,
    choose_settings,
    find_weights,
    flag,
    for_one_epoch,
    plan,
    say,
    with_named,
)

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Arguments:
    """Train a GPT-2 on your own text."""

    preset: str = "auto"
    """One of those above: where all other values start from."""
    minutes: float = 10.0
    """Time that the training may take, for the preset auto."""
    from_: Annotated[str | None, flag("from")] = None
    """Weights to start from, not random ones: the folder of a model or of a run, a .gguf file, a
    .bin file of llama2.c, or owner/name@revision on the hub. Size, tokens and their end come
    along."""
    data: str | None = None
    """A file, a folder, a name on the hub or prepared data; Shakespeare's works if not given."""
    chat: bool = False
    """The data holds conversations, records with a list of messages: written by the template of the
    weights (--from), and only answers are learned."""
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
    device: Device = "auto"
    """Where to train: auto takes a GPU where one works, and says so."""
    plan: bool = False
    """Say what the run would take (memory, time, FLOPs) from a few measured steps, and stop; auto
    chooses for the data if it is prepared already, or else for a text that is long enough."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    sample_tokens: int = 200
    """Length of the sample written at the end, in tokens."""
    licence: str | None = None
    """The model's licence for the card in its folder, such as apache-2.0."""
    track: bool = can_track()
    """Show the run in MLflow: in ./mlflow.db (for `mlflow ui`) or at MLFLOW_TRACKING_URI."""
    config: Path | None = None
    """A TOML file with values for any of these settings, in sections [model] and [training]."""
    model: GPTConfig = PRESETS["laptop"]
    training: TrainingConfig = RECIPES["laptop"]


TUNING = "fine-tuning"
RUNS = {"auto": Arguments(), TUNING: Arguments(preset=TUNING, training=FINE_TUNING)} | {
    name: Arguments(preset=name, model=PRESETS[name], training=recipe)
    for name, recipe in RECIPES.items()
}
# The preset from which a size that was chosen differs by the flags that are printed.
CHOSEN = "laptop"


@cache
def weights(name: str | None) -> StartingWeights | None:
    """The weights that a run starts from; None for random ones."""
    if name is None:
        return None
    is_there = Path(name).exists() or not is_hub_model(name)
    return find_weights(name if is_there else hub_model(name, say=say)[0])


def with_weights(args: Arguments, named: set[str]) -> Arguments:
    """The settings of a run from weights: their size, and their tokeniser.

    ValueError, before anything is written, for settings that contradict the weights.
    """
    if args.chat and (args.from_ is None or args.data is None):
        raise ValueError("--chat needs --data, and --from: a model that has a chat template")
    found = weights(args.from_)
    others = [name for name in ("max_tokens", "shards", "skip_unreadable") if getattr(args, name)]
    if args.chat and others:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ValueError(f"conversations are read whole, and in memory: leave {flags} out")
    if found is None:
        return args
    if args.chat and found.template is None:
        raise ValueError(
            f"{found.place} has no chat template, and cannot learn from conversations: start from "
            "a model that answers, or train on plain text"
        )
    if args.tokeniser is None and found.place.suffix == ".bin":
        raise ValueError(f"no tokeniser is read from {found.place}: name one by --tokeniser")
    is_folder = found.place.is_dir() and not (found.place / "tokenizer.json").is_file()
    if args.tokeniser is None and is_folder:
        raise ValueError(
            f"{found.place} has no tokenizer.json: put the one of these weights there, or name its "
            "folder by --tokeniser"
        )
    has_begun = args.resume and (args.folder / "config.toml").is_file()
    model = args.model if has_begun else found.fit(args.model, named)
    tokeniser = args.tokeniser or str(found.place)
    return replace(args, model=model, tokeniser=tokeniser)


def sized(args: Arguments, named: set[str], tokens: int | None, ranks: int) -> Arguments:
    """With the preset auto, the settings for this machine and that many tokens of text.

    From weights, whose size is given: a recipe that sees the text once.
    """
    if args.preset != "auto":
        return args
    if args.from_ is not None:
        training = with_named(FINE_TUNING, args.training, "training", named)
        training = for_one_epoch(training, named, tokens, args.model.context_window)
        args = replace(args, preset=TUNING, training=training)
        say(f"chosen: --preset {TUNING} {as_flags(args, RUNS[TUNING], 'training')}")
        return args
    say(f"choosing a size for {args.minutes:g} minutes of training (--minutes)")
    besides, device = beside(args), args.device
    args = choose_settings(args, named, tokens, besides=besides, ranks=ranks, device=device)
    say(f"chosen: --preset {CHOSEN} {as_flags(args, RUNS[CHOSEN], 'model', 'training')}")
    return replace(args, preset=CHOSEN)


def planned_for(args: Arguments, ranks: Communicator) -> Plan:
    """What the settings would take here."""
    besides, device = beside(args), args.device
    return plan(args.model, args.training, besides=besides, communicator=ranks, device=device)


def beside(args: Arguments) -> int:
    """Bytes that the tracker takes beside the training."""
    return MLflowTracker.memory if args.track else 0
