"""The tokeniser on the command line: python -m tricycle_bpe train | encode | decode | count | show.

    python -m tricycle_bpe train book.txt --vocab-size 4096 --out my-tokeniser
    python -m tricycle_bpe show my-tokeniser --text "hello there"
    python -m tricycle_bpe encode my-tokeniser book.txt > ids.txt
    python -m tricycle_bpe decode my-tokeniser ids.txt
    python -m tricycle_bpe count gpt2 book.txt

A tokeniser is a folder made by `train`, a tokenizer.json, or a name such as gpt2 or o200k_base.
"""

import argparse
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

from . import show
from .named import NAMED
from .splitting import PATTERNS
from .tokeniser import Tokeniser


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it says; mistakes end with a message and status 2."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = say_warning  # type: ignore[assignment]
            given.command(given)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has ended: no traceback
    except (ValueError, OSError) as error:
        parser.exit(2, f"tricycle_bpe: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\n")


def say_warning(message, *_) -> None:
    """Show a warning in a line, without the place in the source."""
    print(f"tricycle_bpe: {message}", file=sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    """Describe the commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tricycle_bpe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"tricycle-bpe {version('tricycle-bpe')}"
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    train = commands.add_parser("train", help="learn a vocabulary from text files")
    train.add_argument("files", nargs="+", type=Path, help="text files, or folders of .txt files")
    train.add_argument("--vocab-size", type=int, required=True, help="tokens in all, 256 or more")
    train.add_argument("--out", type=Path, required=True, help="the folder to write")
    _with_overwrite(train)
    train.add_argument(
        "--pattern",
        default="gpt2",
        help=f"how to split texts: {', '.join(PATTERNS)} or a regular expression (default: gpt2)",
    )
    train.add_argument(
        "--special",
        action="append",
        default=[],
        metavar="TOKEN",
        help="a special token; repeatable",
    )
    train.add_argument("--min-frequency", type=int, default=1, help="leave rarer pairs alone")
    train.add_argument("--workers", type=int, default=1, help="threads that read (default: 1)")
    train.set_defaults(command=run_train)

    encode = _with_text(commands.add_parser("encode", help="turn text into ids"))
    encode.add_argument("--out", type=Path, help="write a folder of shards instead of numbers")
    encode.add_argument("--workers", type=int, default=1, help="threads, with --out")
    encode.add_argument("--separator", help="the special token between documents, with --out")
    encode.set_defaults(command=run_encode)

    decode = commands.add_parser("decode", help="turn ids back into text")
    decode.add_argument("tokeniser", help="a folder, a tokenizer.json, or a name")
    decode.add_argument(
        "file", nargs="?", type=Path, help="ids in decimal; default: standard input"
    )
    decode.set_defaults(command=run_decode)

    count = _with_text(commands.add_parser("count", help="count tokens, and bytes per token"))
    count.set_defaults(command=run_count)

    shown = _with_text(commands.add_parser("show", help="show the tokens of a text in colour"))
    shown.add_argument("--html", type=Path, help="write a page of HTML instead")
    _with_overwrite(shown)
    shown.add_argument(
        "--colour",
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, unless `NO_COLOR` is set; else a | stands between tokens",
    )
    shown.set_defaults(command=run_show)
    return parser


def _with_text(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("tokeniser", help=f"a folder, a tokenizer.json, or of {', '.join(NAMED)}")
    parser.add_argument("file", nargs="?", type=Path, help="a text file; default: standard input")
    parser.add_argument("--text", help="the text itself")
    return parser


def _with_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")


def refuse_to_overwrite(path: Path, given: argparse.Namespace) -> None:
    """Raise FileExistsError if something is there, before any work is done."""
    if path.exists() and not given.overwrite:
        raise FileExistsError(f"{path} exists already; choose another place, or pass --overwrite")


def read_text(given: argparse.Namespace) -> str:
    """Read the text that the command line gives: in itself, in a file, or on standard input."""
    if given.text is not None:
        return given.text
    data = sys.stdin.buffer.read() if given.file is None else given.file.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        where = "standard input" if given.file is None else given.file
        raise ValueError(f"{where} is not UTF-8: {error}") from None


def run_train(given: argparse.Namespace) -> None:
    """Train, save, and say how many tokens there are."""
    refuse_to_overwrite(given.out / "tokenizer.json", given)
    tokeniser = Tokeniser.train(
        given.files,
        given.vocab_size,
        given.pattern,
        given.special,
        given.min_frequency,
        workers=given.workers,
    )
    tokeniser.save(given.out)
    print(f"{given.out}: {tokeniser.n_vocab:,} tokens, {len(tokeniser.merges):,} merges")


def run_encode(given: argparse.Namespace) -> None:
    """Print ids, or write a shard folder."""
    if given.out is not None and given.out.exists():
        raise FileExistsError(f"{given.out} exists already; remove it or write to another folder")
    tokeniser = Tokeniser.open(given.tokeniser)
    if given.out is None:
        print(*tokeniser.encode(read_text(given), allowed_special="all"))
    elif given.file is None:
        raise ValueError("encode --out needs a file or a folder to read")
    else:
        tokeniser.encode_file(
            given.file, given.out, workers=given.workers, document_separator=given.separator
        )
        print(given.out)


def run_decode(given: argparse.Namespace) -> None:
    """Read ids, write the text they stand for and nothing else."""
    where = "standard input" if given.file is None else given.file
    try:
        numbers = sys.stdin.read() if given.file is None else given.file.read_text("utf-8")
        ids = [int(number) for number in numbers.split()]
    except ValueError as error:
        raise ValueError(
            f"{where}: expected ids in decimal with blanks between them: {str(error):.120}"
        ) from None
    sys.stdout.buffer.write(Tokeniser.open(given.tokeniser).decode_bytes(ids))
    sys.stdout.buffer.flush()


def run_count(given: argparse.Namespace) -> None:
    """Print how many tokens a text has, and bytes per token for each script in it."""
    tokeniser = Tokeniser.open(given.tokeniser)
    text = read_text(given)
    print(show.summary(text, tokeniser.count(text)))
    for script, n_bytes, per_token in show.bytes_per_token_by_script(tokeniser, text):
        print(f"{script:>12} {n_bytes:12,} bytes {per_token:6.2f} per token")


def run_show(given: argparse.Namespace) -> None:
    """Print the tokens of a text in colour, or write them as a page."""
    if given.html is not None:
        refuse_to_overwrite(given.html, given)
    tokeniser = Tokeniser.open(given.tokeniser)
    text = read_text(given)
    if given.html is None:
        print(show.coloured(tokeniser, text) if in_colour(given) else show.barred(tokeniser, text))
    else:
        given.html.write_text(show.page(tokeniser, text), encoding="utf-8")
        print(given.html)


def in_colour(given: argparse.Namespace) -> bool:
    """Whether to write colours: as asked, else where they are seen and wanted (`no-color.org`)."""
    if given.colour != "auto":
        return given.colour == "always"
    dull = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not dull


if __name__ == "__main__":
    main()
