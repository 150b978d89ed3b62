"""Texts as the rest of the package takes them: UTF-8, and long files in parts."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .progress import Progress
from .splitting import kernel_for

PART_BYTES = 1 << 20  # of text that a worker takes at once

# Every pattern that has a kernel splits between an ASCII letter or digit and a newline: no piece
# has one right after the other. Both parts are then split exactly as the whole would be: a pattern
# looks ahead only to see whether blanks continue. (Between a full stop and a newline this does not
# hold: cl100k keeps them together.)
BEFORE_CUT = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


# The name of a file, and nothing else: one line, no blanks, a folder or a suffix.
LIKE_A_PATH = re.compile(r"[^\s]*(?:[/\\][^\s]*|\.[A-Za-z]\w{0,7})")
LONGEST_PATH = 4096  # characters
SO_MANY_MAY_BE_PATHS = 100  # texts; in a corpus of millions one may well be called like a file
SUFFIXES_OF_TEXT = (".txt", ".md", ".jsonl", ".json", ".csv", ".gz", ".xz", ".zst", ".parquet")


def check_is_text(text: object) -> None:
    """Raise TypeError for anything but a str."""
    if not isinstance(text, str):
        advice = "; bytes: encode_bytes" if isinstance(text, bytes | bytearray) else ""
        raise TypeError(f"expected a text (str), got {type(text).__name__}{advice}")


def refuse_path(text: str, number: int) -> None:
    """Raise ValueError for a text that is the name of a file: a path was meant.

    The first text is refused also if there is no such file, for a list of names begins with one.
    """
    if len(text) > LONGEST_PATH or not LIKE_A_PATH.fullmatch(text):
        return
    if "\0" not in text and os.path.exists(text):
        raise ValueError(
            f"text {number:,} is {text!r:.80}, the name of a file, and would be taken for the text "
            f"itself; pass Path({text!r:.80})"
        )
    if number == 0 and text.lower().endswith(SUFFIXES_OF_TEXT):
        raise ValueError(
            f"text 0 is {text!r:.80}, the name of a file that is not there (looked in {Path.cwd()})"
        )


@contextmanager
def numbered(what: str, number: int) -> Iterator[None]:
    """Say in the message of a ValueError or TypeError which of many texts it is about."""
    try:
        yield
    except UnicodeError:
        raise  # says it in other ways, and is not made from a message
    except (ValueError, TypeError) as error:
        raise type(error)(f"{what} {number:,}: {error}") from error


def to_utf8(text: str) -> bytes:
    """Write a text as UTF-8, which has no surrogates: pairs are joined, and a lone one becomes
    U+FFFD, as with tiktoken.

    raises  TypeError for anything but a str
    """
    check_is_text(text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def text_files(path: Path) -> list[Path]:
    """The file itself, or every .txt file of a folder, sorted.

    raises  FileNotFoundError
    """
    if path.is_file():
        return [path]
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{path} is neither a file nor a folder with .txt files in it")
    return files


def read_in_parts(file: BinaryIO, pattern: str, part_bytes: int) -> Iterator[bytes]:
    """Read a file of UTF-8 text in parts that can be split, and encoded, one by one.

    A part has about `part_bytes` bytes, more where there is no safe place to cut. A pattern that
    has no kernel may look at anything, so its text is one part.
    """
    if kernel_for(pattern) is None:
        yield file.read()
        return
    unfinished: list[bytes] = []  # blocks of one part, none of which has had a safe place
    while block := file.read(part_bytes):
        cut = _last_safe_cut(block)
        unfinished.append(block[:cut] if cut else block)
        if cut:
            file.seek(cut - len(block), os.SEEK_CUR)  # the rest is read once more
            yield b"".join(unfinished)
            unfinished = []
    if unfinished:
        yield b"".join(unfinished)


def _last_safe_cut(text: bytes) -> int:
    """Find the last place where a text may be cut; 0 if there is none."""
    newline = len(text)
    while (newline := text.rfind(b"\n", 0, newline)) > 0:
        if text[newline - 1] in BEFORE_CUT:
            return newline
    return 0


def texts_of(texts: Iterable[str | Path], pattern: str, progress: Progress) -> Iterator[bytes]:
    """Go through strings, files and folders of .txt files, as UTF-8, long files in parts.

    raises  ValueError for anything else, and for a file that is not UTF-8
    """
    from .utf8 import check_utf8  # imports numba

    for number, item in enumerate([texts] if isinstance(texts, os.PathLike) else texts):
        if isinstance(item, str):
            if number < SO_MANY_MAY_BE_PATHS:
                refuse_path(item, number)
            text = to_utf8(item)
            yield text
            progress.update(len(text))
        elif isinstance(item, os.PathLike):
            for path in text_files(Path(item)):
                with open(path, "rb") as file:
                    for part in read_in_parts(file, pattern, PART_BYTES):
                        check_utf8(part, path)
                        yield part
                        progress.update(len(part))
        else:
            raise ValueError(
                f"texts must hold strings or paths, found a {type(item).__name__} (text {number:,})"
            )
