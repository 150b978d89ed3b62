"""Texts in a `.parquet` file: one column of a table, a row a document.

Parquet keeps a table in *row groups*, and in each the columns apart.  So the column with the text
is read without the others, and a few rows at a time: a file of gigabytes takes some megabytes.  A
place in it is (row group, row), from which reading can continue without what comes before.

pyarrow reads it (the extra `hub`), imported when it is first needed.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROWS_AT_ONCE = 256


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
    path: str | os.PathLike[str], column: str = "text", start: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, int, str]]:
    """Iterate over (row group, row in it, text) of a .parquet file.

    column  the column that holds the text
    start   (row group, row) of the first one to give; a row may be one past the end of its group
    raises  ValueError that names the file, and the row group and row where one is to blame:
            no parquet file, or a damaged one; no such column; not text, or nothing; not UTF-8; no
            such start.  ImportError without pyarrow
    """
    pyarrow = import_pyarrow()
    path = Path(path)
    with open(path, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            _check_column(pyarrow, table.schema_arrow, column, path)
            yield from _texts(table, column, start, path)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged or not a parquet file: {error}") from error


def _check_column(pyarrow: ModuleType, schema, column: str, path: Path) -> None:
    """Raise ValueError unless the table has this column once, and it holds text."""
    if schema.names.count(column) != 1:
        raise ValueError(
            f'{path} has no column "{column}", only {schema.names}; choose one with field=... '
            "(column=... for the hub)"
        )
    kind = schema.field(column).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise ValueError(f'{path}: column "{column}" holds {kind}, not text')


def _texts(
    table, column: str, start: tuple[int, int], path: Path
) -> Iterator[tuple[int, int, str]]:
    first_group, first_row = start
    n_groups = table.num_row_groups
    if start != (0, 0) and not (
        0 <= first_group < n_groups
        and 0 <= first_row <= table.metadata.row_group(first_group).num_rows
    ):
        raise ValueError(
            f"{path} has no row {first_row:,} in a row group {first_group:,} of its "
            f"{n_groups:,}: is it the file that the position belongs to?"
        )
    for group in range(first_group, n_groups):
        row = 0
        for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column]):
            for scalar in batch.column(0):
                if group > first_group or row >= first_row:
                    yield group, row, _text(scalar, f"{path}, row {row:,} of row group {group:,}")
                row += 1


def _text(scalar, where: str) -> str:
    try:
        text = scalar.as_py()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: the text is not UTF-8 ({error})") from error
    if text is None:
        raise ValueError(f"{where}: nothing (null) where a text should be")
    return text
