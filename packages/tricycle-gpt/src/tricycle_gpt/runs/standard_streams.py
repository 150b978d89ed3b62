"""Standard output and error, which may go away while a program runs.

A pipe ends (`… 2>&1 | head -2`), a terminal is closed, the disk with the log is full, or the
program was started without (`2>&-`).  What is said is then lost; what is computed need not be.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Steadfast:
    """A text stream that a program may write to whatever became of it.

    stream  the one that is written to; None for none

    What cannot be written is dropped.  All else is the stream's own.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; its length."""
        try:
            if self._stream is not None:
                self._write(text)
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._forget()
        return len(text)

    def _write(self, text):
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:  # a character that the stream lacks becomes a ?
            self._stream.write(text.encode(error.encoding, "replace").decode(error.encoding))

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._forget()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def _forget(self):
        """Drop what waits in the stream's buffer: it would fail again, at the latest at the end of
        the program, which would then count as failed."""
        try:
            with _into_nothing(self._stream.fileno()):
                self._stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or without a file behind it
            self._stream = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _into_nothing(number):
    """Have a file's number lead nowhere for a moment."""
    kept = os.dup(number)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def steadfast_streams() -> Iterator[None]:
    """For the time of a block no write to standard output or error raises an error."""
    _fill_gaps()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if isinstance(stream, Steadfast) else Steadfast(stream) for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _fill_gaps():
    """Have the numbers 0, 1 and 2 lead nowhere where they are free: the next file that is opened,
    a checkpoint say, would get one, and with it what libraries write to standard error."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            assert nowhere == number


def has_standard_error() -> bool:
    """Whether the program was started with one: otherwise number 2 may be any file of ours."""
    return sys.__stderr__ is not None


def write_to_standard_error(text: str) -> None:
    """Write to the system's standard error, past Python's buffers, if there is one."""
    if has_standard_error():
        try:
            os.write(2, text.encode())
        except OSError:
            return
