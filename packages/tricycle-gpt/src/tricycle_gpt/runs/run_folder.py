"""What a run leaves behind for people and other programs.

    model/         config.json, model.safetensors, tokenizer.json: Hugging Face's format; README.md
    loss.png       the loss as a picture (needs matplotlib, the extra `plots`)
    sample.txt     text that the model wrote
    config.toml    every setting the run began with; --config reads it back
    data.json      what the text was: source, split, tokeniser, counts
    plan.json      what was expected, beside what the run took
    mlflow-run.txt the run's name in MLflow, where it is followed

beside metrics.jsonl, samples/ and checkpoints/, which `train` writes as it goes.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.evaluation import Evaluation
from tricycle_gpt.generation import generate
from tricycle_gpt.huggingface import to_huggingface
from tricycle_gpt.model import GPT
from tricycle_gpt.model_card import model_card
from tricycle_gpt.runs.checkpoint import list_checkpoints
from tricycle_gpt.runs.command_line import say, to_toml
from tricycle_gpt.runs.flops import flops_per_token
from tricycle_gpt.runs.metrics import plot_loss
from tricycle_gpt.runs.placing import peak_flops
from tricycle_gpt.runs.plan import Plan, compare_with_plan
from tricycle_gpt.runs.progress import duration
from tricycle_gpt.runs.tracking import MLflowTracker, ended_if_it_fails
from tricycle_gpt.runs.training import TrainingResult
from tricycle_gpt.runs.whole_files import or_else_say, replace_text


def write_results(folder: str | Path, model: GPT, tokeniser: Any) -> Path:
    """Write the model folder and, where matplotlib is installed, the picture of the loss.

    tokeniser  anything whose save(folder) writes a tokenizer.json

    Returns the model folder.  Raises OSError if that cannot be written; of a picture that cannot
    it only says so.
    """
    folder = Path(folder)
    model_folder = to_huggingface(model, folder / "model", tokeniser)
    try:
        with or_else_say(str(folder / "loss.png")):
            plot_loss(folder / "metrics.jsonl", folder / "loss.png")
    except ImportError as error:
        print(f"no loss.png: {error}", file=sys.stderr)
    return model_folder


def write_sample(
    folder: str | Path, model: GPT, decoder: Any, prompt: list[int], max_tokens: int, **dials: Any
) -> None:
    """Stream a prompt's continuation to standard output, and keep it in sample.txt.

    decoder  has push(id) -> text and finish() -> text, as tricycle_bpe.StreamDecoder
    dials    temperature, top_k, top_p, seed and so on, as for generate()
    """
    written = [decoder.push(token) for token in prompt]
    try:
        for token in generate(model, prompt, max_tokens, **dials):
            written.append(decoder.push(token))
            print(written[-1], end="", flush=True)
        written.append(decoder.finish() + "\n")
        print(written[-1], end="", flush=True)
    finally:  # what there is, if it was stopped
        with or_else_say(str(Path(folder) / "sample.txt")):
            replace_text(Path(folder) / "sample.txt", "".join(written))


def write_settings(folder: str | Path, settings: Any, data: dict[str, Any] | None = None) -> None:
    """Keep a program's settings, a dataclass, in config.toml; what its text was in data.json.

    A run that has a checkpoint keeps what it began with: the settings that it is asked to go on
    with hold for one session, and may yet be refused.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"config.toml": to_toml(settings)}
    if data is not None:
        texts["data.json"] = json.dumps(data, indent=1) + "\n"
    has_begun = bool(list_checkpoints(folder / "checkpoints"))
    for name, text in texts.items():
        if not (has_begun and (folder / name).exists()):
            replace_text(folder / name, text)


def follow(
    folder: str | Path,
    model: GPT,
    data: str,
    digest: str,
    source: dict[str, Any],
    resume: bool = False,
    ranks: int = 1,
) -> MLflowTracker:
    """MLflow's view of a run: named as its folder, with its settings and its data.

    data    the text's name
    digest  a sha256 of the tokens
    source  what exactly the text is, and where it lies, in plain values
    resume  go on with the MLflow run that this folder began
    ranks   how many processes train, each with threads or a GPU of its own: together they have
            that many times this one's peak
    """
    folder = Path(folder)
    note = folder / "mlflow-run.txt"
    if not resume:
        note.unlink(missing_ok=True)
    tracker = MLflowTracker(
        folder.resolve().name,
        flops_per_token=flops_per_token(model),
        peak_flops=ranks * peak_flops(model.parameters()[0].device),
        note=note,
    )
    tracker.data(data, digest, json.dumps(source))
    tracker.file(folder / "config.toml")
    return tracker


def finish_run(
    folder: str | Path,
    model: GPT,
    tokeniser: Any,
    result: TrainingResult,
    sample: Callable[[], None],
    prompt: str,
    seconds: float,
    tracker: MLflowTracker | None = None,
    planned: Plan | None = None,
    recipe: TrainingConfig | None = None,
    licence: str | None = None,
) -> None:
    """What comes after training: the model folder, the picture, a sample; and say what there is.

    tokeniser  anything whose save(folder) writes a tokenizer.json
    sample     writes the sample: see `write_sample`
    prompt     for the command that has the model write more
    seconds    since the program began
    tracker    gets all of it, and is ended, also by an error
    planned    what the run was expected to take, to be compared
    recipe     how it was trained, for the card in the model folder
    licence    of the model, for that card

    A run that was interrupted leaves the model folder and the picture, and no sample.
    """
    folder = Path(folder)
    with ended_if_it_fails(tracker):
        if planned:
            with or_else_say(str(folder / "plan.json")):
                compare_with_plan(folder, planned)
        model_folder = write_results(folder, model, tokeniser)
        with or_else_say(str(model_folder / "README.md")):
            write_card(folder, model, result, recipe, licence)
        if not result.finished:
            if tracker:
                tracker.end("interrupted")
            say(f"stopped after {result.steps} steps. Go on with the same command and --resume")
            return
        say("\nA sample:")
        sample()
        if tracker:
            hand_over(folder, model_folder, tracker)
    say(f"\ntrained in {duration(seconds)}{in_words(result.evaluation)}")
    if (folder / "loss.png").exists():
        say(f"The loss as a picture:  {folder / 'loss.png'}")
    if tracker:
        say(f"The run in MLflow:  {place_in_mlflow(tracker.uri)}")
    there, prompt = shlex.quote(str(model_folder)), shlex.quote(prompt)
    say(f"Generate more:  hatch run generate --model {there} --prompt {prompt}")


def write_card(
    folder: str | Path,
    model: GPT,
    result: TrainingResult,
    recipe: TrainingConfig | None = None,
    licence: str | None = None,
) -> None:
    """Write README.md into a run's model folder: see `model_card`."""
    folder = Path(folder)
    data = folder / "data.json"
    card = model_card(
        model,
        folder.resolve().name,
        data=json.loads(data.read_text(encoding="utf-8")) if data.is_file() else None,
        recipe=recipe,
        steps=result.steps,
        evaluation=result.evaluation,
        licence=licence,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if recipe else None,
    )
    replace_text(folder / "model" / "README.md", card)


def place_in_mlflow(uri: str) -> str:
    """Where to look at a run: a command for a file, a server's address without its password."""
    if "://" not in uri or uri.startswith(("sqlite:", "file:")):
        own = uri == os.environ.get("MLFLOW_TRACKING_URI")
        return f"hatch run mlflow ui{f' --backend-store-uri {shlex.quote(uri)}' if own else ''}"
    scheme, _, rest = uri.partition("://")
    server, slash, path = rest.partition("/")
    return f"{scheme}://{server.rpartition('@')[2]}{slash}{path}"


def in_words(found: Evaluation | None) -> str:
    """A measure on the validation text as the end of a sentence; nothing if there is none."""
    if found is None:
        return ""
    text = f": validation loss {found.loss:.3f}, perplexity {found.perplexity:.1f}"
    has_bytes = found.bits_per_byte is not None
    return f"{text}, {found.bits_per_byte:.3f} bits per byte" if has_bytes else text


def hand_over(folder: str | Path, model_folder: Path, tracker: MLflowTracker) -> None:
    """Give MLflow what a finished run left: its files, newest checkpoint and model; and end it."""
    folder = Path(folder)
    for name in ("data.json", "loss.png", "sample.txt", "metrics.jsonl", "plan.json"):
        tracker.file(folder / name)
    for checkpoint in list_checkpoints(folder / "checkpoints")[-1:]:
        tracker.file(checkpoint, f"checkpoints/{checkpoint.name}")
    tracker.model(model_folder, folder.resolve().name)
    tracker.end("finished")
