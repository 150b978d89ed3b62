"""A GGUF file, written: settings, then what is where, then the numbers, one tensor after the other.

The format is told in gguf_file.py.
"""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_gpt.gguf_blocks import Kind
from tricycle_gpt.runs.whole_files import replacing, room_for

ALIGNMENT = 32
WRITTEN_VERSION = 3
MAKE_ROOM = "Make room, or write to another disk: a file of this name stays as it was"

# name, shape (as numpy has it), kind, and what makes its bytes when they are wanted
Tensor = tuple[str, tuple[int, ...], Kind, Callable[[], np.ndarray]]


def write_gguf(path: Path, settings: dict[str, Any], tensors: list[Tensor]) -> None:
    """Write a file whole, or not at all.  OSError if that is not possible.

    settings  whole numbers, floats, booleans, texts, and lists of texts or of whole numbers
    """
    head = struct.pack("<4sIQQ", b"GGUF", WRITTEN_VERSION, len(tensors), len(settings))
    head += b"".join(_text(name) + _value(value) for name, value in settings.items())
    place = 0
    for name, shape, kind, _ in tensors:
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += _text(name) + axes + struct.pack("<IQ", kind.code, place)
        place += _padded(_n_bytes(shape, kind))
    n_bytes = _padded(len(head)) + place
    with room_for(path, n_bytes, MAKE_ROOM), replacing(path) as new, new.open("wb") as file:
        file.write(head + bytes(_padded(len(head)) - len(head)))
        for _, shape, kind, make in tensors:
            file.write(make().data)
            n_bytes = _n_bytes(shape, kind)
            file.write(bytes(_padded(n_bytes) - n_bytes))


def _n_bytes(shape, kind):
    return int(np.prod(shape)) // kind.numbers * kind.bytes


def _padded(n):
    return -(-n // ALIGNMENT) * ALIGNMENT


def _text(value):
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(value):
    """A value with its type in front."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(each, str) for each in value):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        return struct.pack("<IIQ", 9, 5, len(value)) + np.asarray(value, "<i4").tobytes()
    return struct.pack("<I", 8) + _text(value)
