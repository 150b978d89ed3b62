"""Continue a text with a trained model.

    hatch run generate --prompt "JULIET."
    hatch run generate --model runs/my_book --temperature 0.7 --top-k 50 --seed 3
    hatch run generate --interactive --quantise 8
    hatch run generate --model runs/my_book --evaluate other_book.txt      measure it instead
    hatch run generate --model folder --hellaswag hellaswag_val.jsonl

The text goes to standard output as it is written, everything else to standard error.
"""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tricycle_bpe import StreamDecoder, Tokeniser
from tricycle_datasets import hub_model, is_hub_model, read_documents
from tricycle_gpt import (
    GPT,
    Dials,
    Evaluation,
    HellaSwag,
    Lambada,
    WikiText,
    dials_in,
    end_politely,
    evaluate,
    from_gguf,
    from_huggingface,
    generate,
    hellaswag,
    lambada,
    place,
    quantise,
    read_command_line,
    read_gguf,
    say,
    settle,
    wikitext,
)


@dataclass(frozen=True)
class Arguments(Dials):
    """Continue a text with a trained model."""

    prompt: str = ""
    """The text to continue; a new line if not given."""
    model: Path = Path("runs/shakespeare/model")
    """The folder of a run, a model folder (config.json, model.safetensors, tokenizer.json), a GGUF
    file, or owner/name@revision on the hub."""
    max_tokens: int = 300
    """How many tokens to write at most; a token that the model ends texts with ends it sooner."""
    temperature: float = 0.8
    """Below 1 is more predictable, above 1 wilder, 0 always takes the likeliest token."""
    stop: tuple[str, ...] = ()
    """Stop before any of these texts is written."""
    quantise: Literal["no", "8", "4"] = "no"
    """Write with weights of 8 bits: two to three times as fast, in a quarter of the memory, and
    nearly the same text; or of 4, still smaller and faster, and further from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to write: auto takes a GPU where one works, and says so."""
    interactive: bool = False
    """Ask for prompts until an empty line or Ctrl-D; Ctrl-C stops the text being written."""
    evaluate: Path | None = None
    """Measure the model on this text, instead of writing: a file, or a folder of them."""
    hellaswag: Path | None = None
    """Measure it on this HellaSwag file (.jsonl)."""
    lambada: Path | None = None
    """Measure it on this LAMBADA file (.jsonl)."""
    wikitext: Path | None = None
    """Measure it on this WikiText file (raw .txt or .parquet)."""
    config: Path | None = None
    """A TOML file with values for any of these settings."""


def main() -> None:
    """Load a model folder and write."""
    args = read_command_line(Arguments(), description=__doc__)
    # These kernels are the processor's.
    bits = None if args.quantise == "no" else int(args.quantise)
    device = settle("cpu" if bits and args.device == "auto" else args.device)
    if bits and device == "cuda":
        raise ValueError(
            "--quantise writes on the processor: give it --device cpu, or leave it out"
        )
    tokeniser, model = load(args.model)
    place(model, device)
    if bits:
        model = quantise(model, bits)
    model.eval()
    if args.evaluate or args.hellaswag or args.lambada or args.wikitext:
        measure(args, model, tokeniser)
        return
    if not args.interactive:
        write(args, model, tokeniser, args.prompt or "\n")
        return
    with contextlib.suppress(EOFError):
        while prompt := input("> "):
            with contextlib.suppress(KeyboardInterrupt):
                write(args, model, tokeniser, prompt)
            print()


def load(folder: Path) -> tuple[Tokeniser, GPT]:
    """The tokeniser and model of a model folder, of a run's folder, which has one, of a GGUF file,
    or of a model on the hub.
    """
    if not folder.exists() and is_hub_model(folder.as_posix()):
        folder = hub_model(folder.as_posix(), say=say)[0]
    if (folder / "model" / "config.json").is_file() and not (folder / "config.json").exists():
        folder = folder / "model"
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no model in {folder}; train one first (hatch run train-shakespeare), or "
            "name another folder with --model"
        )
    if folder.is_file():
        return Tokeniser.from_gguf(read_gguf(folder).settings), from_gguf(folder)
    return Tokeniser.load(folder), from_huggingface(folder)


def measure(args: Arguments, model: GPT, tokeniser: Tokeniser) -> None:
    """Print what the benchmarks find, a line of JSON each."""
    if args.evaluate:
        text = "\n\n".join(read_documents(args.evaluate))
        ids = tokeniser.encode_to_numpy(text, disallowed_special=())
        tell("evaluate", evaluate(model, ids, n_bytes=len(text.encode())))
    if args.hellaswag:
        tell("hellaswag", hellaswag(model, tokeniser, args.hellaswag))
    if args.lambada:
        tell("lambada", lambada(model, tokeniser, args.lambada))
    if args.wikitext:
        # What stands before a text where training began; a tokeniser without it begins a line.
        end = tokeniser.special_tokens.get("<|endoftext|>", tokeniser.encode("\n")[0])
        tell("wikitext", wikitext(model, tokeniser, args.wikitext, end))


def tell(name: str, found: Evaluation | HellaSwag | Lambada | WikiText) -> None:
    """One line of JSON."""
    print(json.dumps({"benchmark": name, **asdict(found)}), flush=True)


def write(args: Arguments, model: GPT, tokeniser: Tokeniser, prompt: str) -> None:
    """Stream a prompt and its continuation to standard output."""
    ids = tokeniser.encode(prompt, allowed_special="all")
    begin = list(tokeniser.around[0])  # which a published tokeniser puts before each text
    ids = ids if ids[: len(begin)] == begin else begin + ids
    decoder = StreamDecoder(tokeniser)
    print(prompt, end="", flush=True)
    began, written = time.perf_counter(), []

    def pieces():
        for token in generate(model, ids, args.max_tokens, stop=model.end_ids, **dials_in(args)):
            written.append(token)
            yield decoder.push(token)
        yield decoder.finish()

    for piece in until(pieces(), args.stop):
        print(piece, end="", flush=True)
    seconds = time.perf_counter() - began
    say(f"\n{len(written)} tokens, {len(written) / seconds:.0f} a second")


def until(pieces, stops):
    """Pieces of text, up to the first place where one of the stop texts begins."""
    held = ""  # text that might be the beginning of a stop text
    for piece in pieces:
        held += piece
        found = [held.index(stop) for stop in stops if stop in held]
        if found:
            yield held[: min(found)]
            return
        safe = len(held) - max((beginning(held, stop) for stop in stops), default=0)
        yield held[:safe]
        held = held[safe:]
    yield held


def beginning(text, stop):
    """How many characters at the end of `text` could be the beginning of `stop`.

    >>> beginning("to be or no", "not")
    2
    """
    return max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


if __name__ == "__main__":
    end_politely(main)
