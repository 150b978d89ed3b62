"""Texts in a `.parquet` file: one column of a table, a row a document.

Parquet keeps a table in *row groups*, and in each the columns apart.  So the column with the text
is read without the others, and a few rows at a time: a file of gigabytes takes some megabytes.  A
place in it is (row group, row), from which reading can continue without what comes before.

pyarrow reads it (the extra `hub`), imported when it is first needed.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

ROWS_AT_ONCE = 256
BYTES_AT_ONCE = 1 << 31  # which the rows that are read at once may take
LONGEST_TEXT = 1 << 30  # bytes


def import_pyarrow() -> ModuleType:
    """pyarrow, with pyarrow.parquet loaded; an ImportError names the extra that brings it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "reading .parquet files needs pyarrow: pip install 'tricycle-datasets[hub]'"
        ) from error
    return pyarrow


def parquet_texts(
    path: str | os.PathLike[str],
    column: str = "text",
    start: tuple[int, int] = (0, 0),
    *,
    complain: Callable[[str], None] | None = None,
) -> Iterator[tuple[int, int, str]]:
    """Iterate over (row group, row in it, text) of a .parquet file.

    Rows that hold nothing (null) are passed over, and a warning at the end says how many they were.

    column    the column that holds the text; with dots for a field in a column: "message.content"
    start     (row group, row) of the first one to give; a row may be one past the end of its group
    complain  what to do with a row whose text is not UTF-8: told what is wrong, it may raise, or
              return, and the row is left out.  None: a ValueError
    raises  ValueError that names the file, and the row group and row where one is to blame:
            no parquet file, or a damaged one; no such column; not text, or nothing; not UTF-8; no
            such start.  ImportError without pyarrow
    """
    pyarrow = import_pyarrow()
    path = Path(path)
    with open(path, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            fields = _check_column(pyarrow, table.schema_arrow, column, path)
            yield from _texts(table, fields, start, path, complain or _raise)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            raise ValueError(f"{path} is damaged or not a parquet file: {error}") from error


def _raise(problem: str) -> None:
    raise ValueError(problem)


def _check_column(pyarrow: ModuleType, schema, column: str, path: Path) -> list[str]:
    """The names that lead to a column; ValueError unless it is there once, and holds text."""
    fields = [column] if column in schema.names else column.split(".")
    if schema.names.count(fields[0]) != 1:
        raise ValueError(
            f'{path} has no column "{column}", only {schema.names!r:.200}; choose one with '
            "field=... (column=... for the hub)"
        )
    types = pyarrow.types
    kind = schema.field(fields[0]).type
    for name in fields[1:]:
        if not types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise ValueError(f'{path}: there is no "{name}" in {kind!s:.100}')
        kind = kind.field(kind.get_field_index(name)).type
    held = kind.value_type if types.is_dictionary(kind) else kind
    # By the name of the kind, for older versions of pyarrow do not know some.
    if str(held) not in ("string", "large_string", "string_view", "binary", "large_binary"):
        raise ValueError(f'{path}: column "{column}" holds {kind}, not text')
    return fields


def _rows_at_once(table, group: int, name: str) -> int:
    """So many rows that they fit in BYTES_AT_ONCE even if each is as long as all that differ.

    A text that comes again and again is written once, so a small file may hold very much.

    One row is read before: where what a file tells of a column contradicts itself that is an error,
    while pyarrow, asked for the column's size alone, ends the process.
    """
    next(table.iter_batches(1, row_groups=[group], columns=[name]), None)
    told, schema = table.metadata.row_group(group), table.metadata.schema
    paths = [schema.column(k).path for k in range(told.num_columns)]
    size = told.column(paths.index(name)).total_uncompressed_size if name in paths else 0
    return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(size, 1)))


def _texts(
    table, fields: list[str], start: tuple[int, int], path: Path, complain: Callable[[str], None]
) -> Iterator[tuple[int, int, str]]:
    first_group, first_row = start
    n_groups, name = table.num_row_groups, ".".join(fields)
    if start != (0, 0) and not (
        0 <= first_group < n_groups
        and 0 <= first_row <= table.metadata.row_group(first_group).num_rows
    ):
        raise ValueError(
            f"{path} has no row {first_row:,} in a row group {first_group:,} of its "
            f"{n_groups:,}: is it the file that the position belongs to?"
        )
    n_null = 0
    for group in range(first_group, n_groups):
        row = 0
        rows = _rows_at_once(table, group, name)
        for batch in table.iter_batches(rows, row_groups=[group], columns=[name]):
            for scalar in batch.column(0):
                if group > first_group or row >= first_row:
                    where = f"{path}, row {row:,} of row group {group:,}"
                    try:
                        text = _text(scalar, fields[1:], where)
                    except ValueError as error:
                        complain(str(error))
                    else:
                        if text is not None:
                            yield group, row, text
                        n_null += text is None
                row += 1
    if n_null:
        warnings.warn(f"{path}: {n_null:,} rows hold nothing (null) and are left out", stacklevel=2)


def _text(scalar, fields: list[str], where: str) -> str | None:
    try:
        text = scalar.as_py()
        for name in fields:
            text = text if text is None else text[name]
        if isinstance(text, bytes):
            text = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: the text is not UTF-8 ({error})") from error
    if text is not None and len(text) > LONGEST_TEXT:
        raise ValueError(f"{where}: a text of {len(text):,} characters is too long")
    return text
