r"""The documents in your own files.

    book.txt, notes.md      a file is one document
    corpus.jsonl            a line is one document: {"text": "...", "source": "ignored"}
    corpus.jsonl.xz         the same, compressed
    corpus.parquet          a row of its column "text" is one document (needs the extra `hub`)
    folder/                 all of these in it and below it, in the order of their paths

Documents come one at a time, so a corpus need not fit in memory (a single document must).  Text is
passed on exactly as it is in the file, line ends included; only a byte-order mark at the start is
dropped.  Text is UTF-8: nothing is guessed and nothing is replaced, since a wrong guess would be
learnt.

Hidden files and folders (.git, .cache) are skipped inside a folder.
"""

import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path

from tricycle_datasets.parquet_files import import_pyarrow, parquet_texts

TEXT = (".txt", ".md")
LINES = (".jsonl", ".jsonl.xz")
TABLE = ".parquet"


def read_documents(path: str | os.PathLike[str], *, field: str = "text") -> Iterator[str]:
    """Iterate over the texts of a file or a folder.

    path    a .txt, .md, .jsonl, .jsonl.xz or .parquet file, or a folder that holds such files
    field   where .jsonl records keep their text, and the column of .parquet tables that holds it
    raises  at once: FileNotFoundError; ValueError for a kind of file not listed above and for a
            folder without any that is; ImportError for .parquet without pyarrow (the extra `hub`).
            On reaching it: ValueError that names the file, and the line, the row or the byte
            offset, for text that is empty, not UTF-8 or not where it should be
    """
    files = files_of(Path(path))
    if any(_is_table(file) for file in files):
        import_pyarrow()
    return (text for file in files for text in _documents_of(file, field))


def files_of(path: Path) -> list[Path]:
    """The files that are read for a path: itself, or those in a folder.  Raises as above."""
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at {path} (looked in {Path.cwd()})")
    if path.is_dir():
        files = _files_below(path)
        if not files:
            raise ValueError(f"no {_kinds()} file in {path} or below it")
        return files
    if not _is_readable(path):
        raise ValueError(f"cannot tell how to read {path}: wanted a {_kinds()} file or a folder")
    return [path]


def _files_below(folder: Path) -> list[Path]:
    """Sorted by the parts of their paths, so that the order is the same on every system."""
    below = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return [
        folder / file
        for file in sorted(below, key=lambda file: file.parts)
        if _is_readable(file) and not any(part.startswith(".") for part in file.parts)
    ]


def _is_readable(file: Path) -> bool:
    return file.name.lower().endswith((*TEXT, *LINES, TABLE))


def _is_table(file: Path) -> bool:
    return file.name.lower().endswith(TABLE)


def _kinds() -> str:
    return f"{', '.join(TEXT + LINES)} or {TABLE}"


def _documents_of(file: Path, field: str) -> Iterator[str]:
    if file.stat().st_size == 0:
        raise ValueError(f"{file} is empty: remove it, or put text in it")
    if file.name.lower().endswith(TEXT):
        yield _decode(file.read_bytes(), file, 0)
        return
    n_documents = 0
    rows = (text for _, _, text in parquet_texts(file, field)) if _is_table(file) else None
    for text in rows or _records(file, field):
        n_documents += 1
        yield text
    if n_documents == 0:
        raise ValueError(f"{file} holds no documents: remove it, or put text in it")


def _records(file: Path, field: str) -> Iterator[str]:
    """The text of each line; lines of nothing but white space are passed over."""
    offset = 0
    for number, line in enumerate(_lines(file), start=1):
        text = _decode(line, file, offset)
        if text.strip():
            yield _text_of(text, field, f"line {number:,} of {file}")
        offset += len(line)


def _lines(file: Path) -> Iterator[bytes]:
    if not file.name.lower().endswith(".xz"):
        with open(file, "rb") as stream:
            yield from stream
        return
    try:
        with lzma.open(file) as stream:
            yield from stream
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{file} is damaged or cut short: {error}") from error


def _decode(data: bytes, file: Path, offset: int) -> str:
    """`offset` is where in the (uncompressed) file the data starts."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8: byte {data[error.start]:#04x} at offset "
            f"{offset + error.start:,} ({error.reason}); convert it first, for example with "
            "iconv -f latin1 -t utf-8"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def _text_of(line: str, field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a record like {{{json.dumps(field)}: ...}}")
    if field not in record:
        raise ValueError(
            f'{where} has no field "{field}", only {sorted(record)}; choose one with field=...'
        )
    text = record[field]
    if not isinstance(text, str):
        raise ValueError(f'{where}: field "{field}" holds {type(text).__name__}, not text')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f'{where}: field "{field}" holds half a surrogate pair') from error
    return text
