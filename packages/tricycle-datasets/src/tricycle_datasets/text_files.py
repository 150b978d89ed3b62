r"""The documents in your own files.

    book.txt, notes.md           a file is one document
    corpus.jsonl, corpus.ndjson  a line is one document: {"text": "...", "source": "ignored"}
    corpus.json                  a list of such records, or of texts; or one record
    corpus.parquet               a row of its column "text" is one document (the extra `hub`)
    *.gz  *.bz2  *.xz  *.zst     any of these but .parquet, compressed (.zst: the extra `zst`)
    folder/                      all of these in it and below it, in the order of their paths

Documents come one at a time, so a corpus need not fit in memory (a single document must, and a
.json file).  Text is passed on exactly as it is in the file, line ends included; only a byte-order
mark at the start is dropped.  Text is UTF-8: nothing is guessed and nothing is replaced, since a
wrong guess would be learnt.

Inside a folder hidden files and folders (.git, .cache) are skipped, links are followed, and what is
left out, because it is of another kind or empty, is said in a warning.
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tricycle_datasets.decompression import (
    COMPRESSIONS,
    compression_of,
    import_zstandard,
    pieces_of,
)
from tricycle_datasets.other_ids import is_ids
from tricycle_datasets.parquet_files import import_pyarrow, parquet_texts
from tricycle_datasets.what_bytes_are import LOOKED_AT, is_lfs_pointer, what_bytes_are

TEXT = (".txt", ".md")
LINES = (".jsonl", ".ndjson")
RECORDS = ".json"
TABLE = ".parquet"
KINDS = (*TEXT, *LINES, RECORDS, TABLE)

LONGEST_DOCUMENT = 1 << 30  # bytes of a text that is unpacked, or of a line: else memory is at risk
MOST_NAMED = 20  # bad files in one message

Complain = Callable[[str], None]  # raises, or notes what was left out


def read_documents(
    path: str | os.PathLike[str], *, field: str = "text", skip_unreadable: bool = False
) -> Iterator[str]:
    """Iterate over the texts of a file or a folder.

    path             a file of one of the kinds above, or a folder that holds such files
    field            where records keep their text, and the column of tables that holds it; with
                     dots for a field in a field: "message.content", "turns.0.text"
    skip_unreadable  leave out what cannot be read, with a warning that counts it, instead of
                     raising an error: a file, or the line or row of it that is to blame
    raises           at once: FileNotFoundError; ValueError for a kind of file not listed above and
                     for a folder without any that is; ImportError for .parquet without pyarrow
                     (the extra `hub`) and .zst without zstandard (`zst`).  On reaching it:
                     ValueError that names every file that cannot be read, and in each the line, the
                     row or the byte offset of the first text that is not UTF-8 or not where it
                     should be
    """
    place = Path(path)
    files = files_of(place)
    if any(_kind(file) == TABLE for file in files):
        import_pyarrow()
    if any(compression_of(file.name) == ".zst" for file in files):
        import_zstandard()
    if skip_unreadable:
        return (text for file in files for text in _readable_of(file, field))
    return _all_of(files, field)


def files_of(path: Path) -> list[Path]:
    """The files that are read for a path: itself, or those in a folder.  Raises as above.

    A warning says which files of a folder are left out.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at {path} (looked in {Path.cwd()})")
    if path.is_dir():
        return _files_below(path)
    if not _kind(path):
        advice = "; token ids are opened by read_ids" if is_ids(path) else ""
        raise ValueError(
            f"cannot tell how to read {path}: wanted a {_kinds()} file, perhaps compressed "
            f"({', '.join(COMPRESSIONS)}), or a folder{advice}"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: put text in it")
    return [path]


def _files_below(folder: Path) -> list[Path]:
    """Sorted by the parts of their paths, so that the order is the same on every system."""
    read: list[Path] = []
    left_out: list[Path] = []
    empty = 0
    for file in sorted(_walk(folder), key=lambda file: file.relative_to(folder).parts):
        if not _kind(file):
            left_out.append(file)
        elif file.stat().st_size == 0:
            empty += 1
        else:
            read.append(file)
    if not read:
        found = f": there are {_by_kind(left_out)}" if left_out else ""
        found += f", and {empty} empty ones" if empty else ""
        raise ValueError(f"no {_kinds()} file in {folder} or below it{found}")
    if left_out or empty:
        what = ", ".join(
            ([_by_kind(left_out)] if left_out else []) + ([f"{empty} empty"] if empty else [])
        )
        example = f" (such as {left_out[0].relative_to(folder)})" if left_out else ""
        warnings.warn(
            f"{folder}: {len(read)} files are read, and left out are {what}{example}", stacklevel=3
        )
    return read


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, through links, each folder once even where a link leads back."""
    seen = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(at)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            file = Path(at, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _by_kind(files: list[Path]) -> str:
    """Count files by the end of their names: 2 .csv, 1 .pdf."""
    kinds = Counter(file.suffix.lower() or "without an ending" for file in files)
    some = [f"{n} {kind}" for kind, n in kinds.most_common(5)]
    return ", ".join(some) + (f" and {len(kinds) - 5} other kinds" if len(kinds) > 5 else "")


def _kind(file: Path) -> str:
    """Of a file's name what says how to read it, such as ".jsonl"; "" for another kind."""
    name = file.name.lower()
    compression = compression_of(name)
    kind = Path(name.removesuffix(compression)).suffix
    return kind if kind in KINDS and not (compression and kind == TABLE) else ""


def _kinds() -> str:
    return f"{', '.join(KINDS[:-1])} or {TABLE}"


# ---- What cannot be read ----


def _all_of(files: list[Path], field: str) -> Iterator[str]:
    """The texts of all files; where one cannot be read an error names all that cannot."""
    for number, file in enumerate(files):
        try:
            yield from _documents_of(file, field, _raise)
        except ValueError as error:
            raise _bad_files([str(error)], files[number + 1 :], field) from error


def _bad_files(found: list[str], others: list[Path], field: str) -> ValueError:
    """An error that also names the files after the first bad one that cannot be read."""
    for file in others:
        try:
            for _ in _documents_of(file, field, _raise):
                pass
        except ValueError as error:
            found.append(str(error))
    if len(found) == 1:
        return ValueError(f"{found[0]} (skip_unreadable leaves out what cannot be read)")
    shown = "\n  ".join(found[:MOST_NAMED])
    more = f"\n  and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return ValueError(
        f"{len(found)} files cannot be read (skip_unreadable leaves them out):\n  {shown}{more}"
    )


def _raise(problem: str) -> None:
    raise ValueError(problem)


def _readable_of(file: Path, field: str) -> Iterator[str]:
    """The texts of a file that can be read; a warning says what could not."""
    problems: list[str] = []
    count = 0

    def note(problem: str) -> None:
        nonlocal count
        count += 1
        if not problems:
            problems.append(problem)

    try:
        yield from _documents_of(file, field, note)
    except ValueError as error:
        note(str(error))
    if count:
        warnings.warn(f"{file}: {count:,} left out, the first: {problems[0]}", stacklevel=2)


# ---- One file ----


def _documents_of(file: Path, field: str, complain: Complain) -> Iterator[str]:
    with open(file, "rb") as stream:
        if is_lfs_pointer(stream.read(1024)):
            raise ValueError(f"{file} is a Git LFS pointer, not the file itself: git lfs pull")
    kind = _kind(file)
    if kind in TEXT:
        yield _decode(_whole(file), file, 0)
    elif kind in LINES:
        yield from _records(file, field, complain)
    elif kind == RECORDS:
        yield from _records_of_json(file, field, complain)
    else:
        for _, _, text in parquet_texts(file, field, complain=complain):
            yield text


def _whole(file: Path) -> bytes:
    """All of a file.  One that is not compressed may have any length: its owner knows it."""
    if not compression_of(file.name):
        return file.read_bytes()
    pieces = []
    n_bytes = 0
    for piece in pieces_of(file):
        pieces.append(piece)
        n_bytes += len(piece)
        if n_bytes > LONGEST_DOCUMENT:
            raise ValueError(f"{file} unpacks to more than {LONGEST_DOCUMENT:,} bytes of one text")
    return b"".join(pieces)


def _records(file: Path, field: str, complain: Complain) -> Iterator[str]:
    """The text of each line; lines of nothing but white space are passed over."""
    offset = 0
    for number, line in enumerate(_lines(file), start=1):
        where = f"line {number:,} of {file}"
        try:
            text = _decode(line, file, offset)
            if text.strip():
                yield _text_of(_parsed(text, where), field, where)
        except ValueError as error:
            complain(str(error))
        offset += len(line)


def _lines(file: Path) -> Iterator[bytes]:
    rest: list[bytes] = []
    n_rest = 0
    for piece in pieces_of(file):
        *whole, last = piece.split(b"\n")
        for line in whole:
            rest.append(line + b"\n")
            yield b"".join(rest)
            rest, n_rest = [], 0
        rest.append(last)
        n_rest += len(last)
        if n_rest > LONGEST_DOCUMENT:
            raise ValueError(f"{file} has a line of more than {LONGEST_DOCUMENT:,} bytes")
    if n_rest:
        yield b"".join(rest)


def _records_of_json(file: Path, field: str, complain: Complain) -> Iterator[str]:
    """The texts of a list of records, or of one record; or of lines, as .json files often are."""
    text = _decode(_whole(file), file, 0)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") != "Extra data":
            raise ValueError(f"{file} is not JSON: {error}") from error
        yield from _records(file, field, complain)
        return
    for number, record in enumerate(_listed(found), start=1):
        where = f"record {number:,} of {file}"
        try:
            yield (
                _checked(record, where)
                if isinstance(record, str)
                else _text_of(record, field, where)
            )
        except ValueError as error:
            complain(str(error))


def records_of(file: Path) -> Iterator[tuple[str, Any]]:
    """Each record of a .jsonl, .ndjson or .json file, and where it stands, for messages.

    ValueError for other files, for what is not JSON, and for bytes that are not UTF-8.
    """
    kind = _kind(file)
    if kind in LINES:
        offset = 0
        for number, line in enumerate(_lines(file), start=1):
            where, text = f"line {number:,} of {file}", _decode(line, file, offset)
            if text.strip():
                yield where, _parsed(text, where)
            offset += len(line)
    elif kind == RECORDS:
        found = _parsed(_decode(_whole(file), file, 0), str(file))
        for number, record in enumerate(_listed(found), start=1):
            yield f"record {number:,} of {file}", record
    else:
        raise ValueError(f"{file} has no records: wanted {', '.join(LINES)} or {RECORDS}")


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _decode(data: bytes, file: Path, offset: int) -> str:
    """`offset` is where in the (uncompressed) file the data starts."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = max(0, error.start - LOOKED_AT // 2)
        # Where this begins within a character, its first bytes say nothing.
        looked_at = data[before:].lstrip(bytes(range(0x80, 0xC0))) if before else data
        raise ValueError(
            f"{file} is not UTF-8: byte {data[error.start]:#04x} at offset "
            f"{offset + error.start:,} ({error.reason}); {what_bytes_are(looked_at, _start(file))}"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def _start(file: Path) -> bytes:
    """The first bytes of a file, which tell many kinds apart; none of a compressed one."""
    if compression_of(file.name):
        return b""
    with open(file, "rb") as stream:
        return stream.read(8)


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _text_of(record: Any, field: str, where: str) -> str:
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a record like {{{json.dumps(field)}: ...}}")
    return _checked(_inside(record, field, where), where, field)


def _inside(record: dict, field: str, where: str) -> Any:
    """What a record holds in a field, or in a field of a field: "message.content"."""
    if field in record:
        return record[field]
    value: Any = record
    for name in field.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise ValueError(
                f'{where} has no field "{field}", only {str(sorted(record)):.200}; choose one with '
                "field=..."
            )
    return value


def _checked(text: Any, where: str, field: str = "") -> str:
    what = f'field "{field}"' if field else "it"
    if not isinstance(text, str):
        raise ValueError(f"{where}: {what} holds {type(text).__name__}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {what} holds half a surrogate pair") from error
    return text
