"""What is in a GGUF file, read without trusting a byte of it.

    "GGUF"  version  tensor count  setting count
    settings            name, type, value            general.architecture = "llama"
    tensors             name, shape, type, place     blk.0.attn_q.weight (576, 576) Q4_1 at 1024
    (padding)           to a multiple of the alignment, 32 unless a setting says otherwise
    numbers             of the tensors, where each says

A file from elsewhere may be damaged, or made to do damage.  So every count is held against the
bytes that are left before anything is made of it, no two tensors may share a byte, names are plain,
and a faulty file is one `GGUFError` that lists what is wrong.  Lists of texts (a vocabulary) stay
bytes until one is asked for: what is kept is never much larger than the file.

Source: the GGUF specification (ggml), versions 2 and 3, little-endian.
"""

import mmap
import re
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_gpt.gguf_blocks import BY_CODE, KINDS, OTHERS, decode

NUMBERS = {  # by their code: how they are stored
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
TEXT, LIST = 8, 9
MOST_SETTINGS, MOST_TENSORS = 4096, 65536  # more than any model has
MOST_SHOWN = 20  # faults in one message
PLAIN_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")


class GGUFError(ValueError):
    """A GGUF file that is damaged, or of a kind that is not read; the message lists the faults."""


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor's numbers are.

    shape     as numpy has it: the numbers of its last axis lie side by side
    kind      the type of its numbers, a name in KINDS
    place     of its first byte in the file
    n_bytes   that it takes
    """

    shape: tuple[int, ...]
    kind: str
    place: int
    n_bytes: int


@dataclass(frozen=True)
class GGUFFile:
    """What `read_gguf` finds: settings by name, and tensors that are read when asked for."""

    path: Path
    settings: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def read(self, name: str) -> np.ndarray:
        """A tensor's numbers, float32.  KeyError for a name that is not in the file."""
        tensor = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(tensor.place)
            raw = np.fromfile(file, np.uint8, tensor.n_bytes)
        if raw.size < tensor.n_bytes:
            raise GGUFError(f"{self.path} has become shorter while it was read")
        return decode(raw, KINDS[tensor.kind]).reshape(tensor.shape)


class Texts(Sequence[str]):
    """A list of texts as it stands in a file, each decoded when it is asked for."""

    def __init__(self, raw: bytes, starts: "array[int]"):
        self._raw, self._starts = raw, starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        start = self._starts[i]
        (length,) = U64.unpack_from(self._raw, start)
        text = self._raw[start + 8 : start + 8 + length]
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise GGUFError(f"text {i} of a list is not UTF-8: {text[:40]!r}") from error


def read_gguf(path: str | Path) -> GGUFFile:
    """The settings and tensors of a GGUF file; no tensor's numbers are read yet.

    Raises FileNotFoundError, and GGUFError with everything that is wrong with the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise GGUFError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                settings, tensors = parse(mapped)
    except GGUFError as error:
        raise GGUFError(f"{path} cannot be read as GGUF: {error}") from None
    return GGUFFile(path, settings, tensors)


def parse(data: Any) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """The settings and tensors of a file's bytes.  Raises GGUFError with all that is wrong."""
    reader = _Reader(data)
    n_tensors, n_settings = _read_counts(reader)
    settings = _read_settings(reader, n_settings)
    tensors = _read_tensors(reader, n_tensors)
    begin = _begin(reader, settings)
    found = _placed(reader, tensors, begin)
    if reader.faults:
        raise GGUFError(_told(reader.faults))
    return settings, found


def _told(faults):
    told = "; ".join(faults[:MOST_SHOWN])
    more = len(faults) - MOST_SHOWN
    return f"{told}; and {more} faults more" if more > 0 else told


# ---- Steps through the bytes ----


class _Reader:
    """A place in the bytes, and the faults met so far; what cannot be stepped over ends it."""

    def __init__(self, data):
        self.data, self.size, self.at = data, len(data), 0
        self.faults = []

    def fail(self, fault):
        raise GGUFError(_told([*self.faults, fault]))

    def step(self, n, what):
        """Step over n bytes; returns where they begin."""
        start = self.at
        if n > self.size - start:
            self.fail(
                f"it ends too soon: {what} at byte {start} takes {n} bytes, and "
                f"{self.size - start} are left"
            )
        self.at = start + n
        return start

    def u32(self, what):
        return U32.unpack_from(self.data, self.step(4, what))[0]

    def u64(self, what):
        return U64.unpack_from(self.data, self.step(8, what))[0]

    def name(self, what):
        """A name of plain characters; others are a fault."""
        length = self.u64(f"the length of {what}")
        start = self.step(length, what)
        raw = self.data[start : start + min(length, 200)]
        if length > 200 or b".." in raw or not PLAIN_NAME.fullmatch(raw):
            self.faults.append(f"{what} is no plain name: {bytes(raw[:40])!r}")
        return raw.decode("utf-8", "replace")


def _read_counts(reader):
    magic = bytes(reader.data[:4])
    if magic != b"GGUF":
        reader.fail(f"it does not begin with GGUF, but with {magic!r}")
    reader.step(4, "GGUF")
    version = reader.u32("the version")
    if version not in (2, 3):
        is_big = version in (2 << 24, 3 << 24)
        other = "big-endian" if is_big else f"of version {version}"
        reader.fail(f"it is {other}; little-endian files of versions 2 and 3 are read")
    n_tensors, n_settings = reader.u64("the count of tensors"), reader.u64("the count of settings")
    left = reader.size - reader.at
    # Least sizes: a name of one byte, and a value of one or one dimension.
    for n, most, least, what in (
        (n_settings, MOST_SETTINGS, 8 + 1 + 4 + 1, "settings"),
        (n_tensors, MOST_TENSORS, 8 + 1 + 4 + 8 + 4 + 8, "tensors"),
    ):
        if n > most or n * least > left:
            reader.fail(f"it says {n} {what}; {left} bytes are left, and {most} are read at most")
    return n_tensors, n_settings


def _read_settings(reader, count):
    settings = {}
    for i in range(count):
        name = reader.name(f"the name of setting {i}")
        if name in settings:
            reader.faults.append(f"setting {name} stands there twice")
        settings[name] = _read_value(reader, reader.u32(f"the type of {name}"), name)
    return settings


def _read_value(reader, kind, name):
    if kind in NUMBERS:
        dtype = np.dtype(NUMBERS[kind])
        start = reader.step(dtype.itemsize, name)
        return np.frombuffer(reader.data, dtype, 1, start)[0].item()
    if kind == TEXT:
        length = reader.u64(f"the length of {name}")
        start = reader.step(length, name)
        try:
            return reader.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            reader.faults.append(f"{name} is not UTF-8")
            return ""
    if kind == LIST:
        return _read_list(reader, name)
    return reader.fail(f"{name} is of type {kind}, which there is not")


def _read_list(reader, name):
    kind, count = reader.u32(f"the type in {name}"), reader.u64(f"the count of {name}")
    if kind in NUMBERS:
        dtype = np.dtype(NUMBERS[kind])
        start = reader.step(count * dtype.itemsize, f"{name}, {count} numbers,")
        return np.frombuffer(reader.data, dtype, count, start).copy()
    if kind == TEXT:
        return _read_texts(reader, count, name)
    return reader.fail(f"{name} is a list of type {kind}; lists of numbers and of texts are read")


def _read_texts(reader, count, name):
    data, begin, last = reader.data, reader.at, reader.size - 8
    if count * 8 > reader.size - begin:
        reader.fail(f"{name} says {count} texts, and {reader.size - begin} bytes are left")
    starts, at, length_at = array("q"), begin, U64.unpack_from
    for _ in range(count):  # not by methods: a vocabulary has 150,000
        if at > last:
            reader.at = at
            reader.step(8, f"a length in {name}")
        starts.append(at - begin)
        at += 8 + length_at(data, at)[0]
    reader.step(at - begin, name)
    return Texts(bytes(data[begin:at]), starts)


# ---- Tensors ----


def _read_tensors(reader, count):
    """(name, shape, code, offset) of each."""
    found = []
    for i in range(count):
        name = reader.name(f"the name of tensor {i}")
        n_axes = reader.u32(f"the number of axes of {name}")
        if not 1 <= n_axes <= 4:
            reader.fail(f"{name} has {n_axes} axes; 1 to 4 are read")
        start = reader.step(8 * n_axes, f"the shape of {name}")
        # Theirs begins with the axis whose numbers lie side by side.
        shape = struct.unpack_from(f"<{n_axes}Q", reader.data, start)[::-1]
        code, offset = reader.u32(f"the type of {name}"), reader.u64(f"the place of {name}")
        found.append((name, shape, code, offset))
    return found


def _begin(reader, settings):
    """Where the numbers begin: a fault if the alignment makes no sense."""
    alignment = settings.get("general.alignment", 32)
    if type(alignment) is not int or alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 4096):
        reader.faults.append(f"general.alignment is {str(alignment)[:40]}, no small power of two")
        alignment = 32
    return -(-reader.at // alignment) * alignment, alignment


def _placed(reader, tensors, begin):
    """The tensors by name, if each is whole, alone in its place, and of a type that is read."""
    begin, alignment = begin
    found = {}
    for name, shape, code, offset in tensors:
        if name in found:
            reader.faults.append(f"tensor {name} stands there twice")
        if (kind := BY_CODE.get(code)) is None:
            known = OTHERS.get(code, f"number {code}")
            reader.faults.append(f"{name} is of type {known}; {', '.join(KINDS)} are read")
            continue
        n = 1
        for size in shape:
            n *= size
        if n == 0 or shape[-1] % KINDS[kind].numbers:
            reader.faults.append(
                f"{name} has shape {shape}; {kind} wants rows of whole blocks of "
                f"{KINDS[kind].numbers} numbers"
            )
            continue
        n_bytes = n // KINDS[kind].numbers * KINDS[kind].bytes
        if offset % alignment:
            reader.faults.append(f"{name} begins at {offset}, no multiple of {alignment}")
        if begin + offset + n_bytes > reader.size:
            reader.faults.append(
                f"{name} takes {n_bytes} bytes from {begin + offset} on; the file has {reader.size}"
            )
        found[name] = GGUFTensor(shape, kind, begin + offset, n_bytes)
    _find_overlaps(reader, found)
    return found


def _find_overlaps(reader, found):
    end, before = 0, ""
    for name, tensor in sorted(found.items(), key=lambda item: item[1].place):
        if tensor.place < end:
            reader.faults.append(f"{name} and {before} share bytes")
        if tensor.place + tensor.n_bytes > end:
            end, before = tensor.place + tensor.n_bytes, name
