"""Documents from files: every kind, in a fixed order, exactly as they are, or a clear error."""

import json
import lzma
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_datasets import read_documents
from tricycle_datasets.parquet_files import parquet_texts

TO_BE = "To be, or not to be\n"
# Arrow believes a column that says it is text: here "one", then a byte that begins no character.
NOT_UTF_8 = pa.array([b"one", b"caf\xe9"], pa.binary()).view(pa.string())


@pytest.fixture
def folder(tmp_path):
    """Four documents in two folders, beside things that are not documents."""
    (tmp_path / "b.md").write_text("second\n")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.jsonl").write_text('{"text": "third"}\n{"text": "fourth"}\n')
    (tmp_path / "c" / "table.csv").write_text("1,2\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "description.txt").write_text("not a document")
    (tmp_path / "c" / ".hidden.txt").write_text("not a document")
    return tmp_path


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "hamlet.txt"
    path.write_text(TO_BE)
    assert list(read_documents(path)) == [TO_BE]
    assert list(read_documents(str(path))) == [TO_BE]


def test_a_folder_is_read_in_the_order_of_its_paths(folder):
    assert list(read_documents(folder)) == ["first\n", "second\n", "third", "fourth"]


def test_a_folder_comes_before_another_whose_name_begins_with_its_own(tmp_path):
    # As plain strings "a-b/1.txt" would come before "a/2.txt", on some systems.
    for name in ("a-b/1.txt", "a/2.txt", "0.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(read_documents(tmp_path)) == ["0.txt", "a/2.txt", "a-b/1.txt"]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.xz", "CORPUS.JSONL"])
def test_a_line_of_jsonl_is_one_document(tmp_path, name):
    lines = (
        b'{"text": "one", "id": 7}\n\n  \r\n{"text": "zwei \\u00e4\\ud83d\\ude00"}\r\n{"text": ""}'
    )
    data = lzma.compress(lines) if name.endswith("xz") else lines
    (tmp_path / name).write_bytes(data)
    assert list(read_documents(tmp_path / name)) == ["one", "zwei ä😀", ""]


def test_another_field_may_hold_the_text(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"content": "one"}\n')
    assert list(read_documents(tmp_path / "c.jsonl", field="content")) == ["one"]


def test_documents_come_one_at_a_time(folder):
    (folder / "z.txt").write_bytes(b"\xff")
    documents = read_documents(folder)
    assert next(documents) == "first\n"  # the bad one at the end was not opened yet


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5))
def test_text_comes_out_exactly_as_it_went_in(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("corpus")
    for number, text in enumerate(written):
        (folder / f"{number}.txt").write_bytes(text.encode("utf-8"))
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in written)
    (folder / "all.jsonl.xz").write_bytes(lzma.compress(lines.encode("utf-8")))
    assert list(read_documents(folder)) == [
        *(text.removeprefix("\ufeff") for text in written),
        *written,
    ]


def test_only_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfTo be,\r\nor not\0to be\r\n")
    assert list(read_documents(tmp_path)) == ["To be,\r\nor not\0to be\r\n"]
    (tmp_path / "windows.txt").unlink()
    (tmp_path / "windows.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n')
    assert list(read_documents(tmp_path)) == ["one", "two"]


# ---- Parquet ----


def test_a_row_of_parquet_is_one_document(tmp_path):
    path = tmp_path / "corpus.parquet"
    texts = ["one", "zwei ä😀", "", *(str(number) for number in range(1000))]
    pq.write_table(pa.table({"id": range(1003), "text": texts}), path, row_group_size=300)
    assert list(read_documents(path)) == texts
    large = pa.array(texts, pa.large_string())
    pq.write_table(pa.table({"content": large}), path, row_group_size=300)
    assert list(read_documents(path, field="content")) == texts


def test_a_folder_may_mix_all_kinds(folder):
    (folder / "c" / "e.jsonl.xz").write_bytes(lzma.compress(b'{"text": "fifth"}'))
    pq.write_table(pa.table({"text": ["sixth"]}), folder / "z.PARQUET")
    names = ["first\n", "second\n", "third", "fourth", "fifth", "sixth"]
    assert list(read_documents(folder)) == names


@pytest.mark.parametrize("start", [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (2, 1)])
def test_reading_a_table_may_start_anywhere(tmp_path, start):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": list("abcdefg")}), path, row_group_size=3)
    group, row = start
    assert (
        "".join(text for *_, text in parquet_texts(path, start=start))
        == "abcdefg"[3 * group + row :]
    )


def test_pyarrow_is_not_imported_before_it_is_needed():
    program = (
        "import sys, tricycle_datasets\n"
        "assert not {'pyarrow', 'huggingface_hub'} & set(sys.modules), sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# ---- Errors ----


def error_of(path, **options):
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        list(read_documents(path, **options))
    return str(caught.value)


def test_a_missing_file_is_named_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder at .*hamlet\.txt"):
        read_documents(tmp_path / "hamlet.txt")


def test_an_unknown_kind_of_file_is_named_at_once(tmp_path):
    (tmp_path / "table.csv").write_text("1,2\n")
    wanted = r"table.csv: wanted a .txt, .md, .jsonl, .jsonl.xz or .parquet file or a folder"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        read_documents(tmp_path / "table.csv")


def test_a_folder_without_documents_is_named_at_once(tmp_path):
    with pytest.raises(ValueError, match="no .txt, .md, .jsonl, .jsonl.xz or .parquet file in "):
        read_documents(tmp_path)


def test_an_empty_file_is_named(folder):
    (folder / "c" / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"c.empty\.txt is empty: remove it, or put text in it"):
        list(read_documents(folder))


def test_a_compressed_file_of_nothing_is_named(tmp_path):
    (tmp_path / "empty.jsonl.xz").write_bytes(lzma.compress(b"\n\n"))
    assert "holds no documents" in error_of(tmp_path / "empty.jsonl.xz")


def test_text_that_is_not_utf_8_is_named_with_its_place(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"caf\xe9 au lait")
    assert "is not UTF-8: byte 0xe9 at offset 3 (invalid continuation byte)" in error_of(path)
    path = tmp_path / "cut.txt"
    path.write_bytes("café".encode()[:-1])
    assert "byte 0xc3 at offset 3 (unexpected end of data)" in error_of(path)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.xz"])
def test_the_place_counts_from_the_start_of_the_file(tmp_path, ending):
    lines = b'{"text": "one"}\n{"text": "caf\xe9"}\n'
    path = tmp_path / f"latin1{ending}"
    path.write_bytes(lzma.compress(lines) if ending.endswith("xz") else lines)
    assert f"byte 0xe9 at offset {lines.index(0xE9)} " in error_of(path)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"text": ', "is not JSON: Expecting value"),
        ("[" * 100_000, "is not JSON: "),
        ('{"content": "x", "a": 1}', "has no field \"text\", only ['a', 'content']; choose one"),
        ('["text"]', 'is not a record like {"text": ...}'),
        ('{"text": 7}', 'field "text" holds int, not text'),
        ('{"text": null}', 'field "text" holds NoneType, not text'),
        ('{"text": "\\ud83d"}', 'field "text" holds half a surrogate pair'),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, wanted):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "one"}\n\n' + line + "\n")
    message = error_of(path)
    assert message.startswith("line 3 of ")
    assert wanted in message


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"content": ["x"], "a": [1]}, "has no column \"text\", only ['content', 'a']; choose one"),
        ({"text": [7]}, 'column "text" holds int64, not text'),
        ({"text": pa.array([], pa.string())}, "holds no documents"),
        ({"text": ["one", None]}, "row 1 of row group 0: nothing (null) where a text should be"),
        ({"text": NOT_UTF_8}, "row 1 of row group 0: the text is not UTF-8"),
    ],
)
def test_a_table_without_text_is_named(tmp_path, columns, wanted):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table(columns), path)
    assert wanted in error_of(path)


def test_a_table_that_is_none_or_cut_short_is_named(tmp_path):
    path = tmp_path / "corpus.parquet"
    path.write_bytes(b"")
    assert "is empty: remove it" in error_of(path)
    pq.write_table(pa.table({"text": ["one", "two"]}), path)
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        assert "is damaged or not a parquet file" in error_of(path)


def test_without_pyarrow_the_extra_is_named_at_once(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert next(read_documents(folder)) == "first\n"  # without a table nothing is missing
    (folder / "z.parquet").write_text("whatever")
    with pytest.raises(ImportError, match=r"pip install 'tricycle-datasets\[hub\]'"):
        read_documents(folder)


def test_a_damaged_archive_is_named_wherever_it_is_damaged(tmp_path):
    whole = lzma.compress(b'{"text": "one"}\n' * 100)
    path = tmp_path / "corpus.jsonl.xz"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        assert "is damaged or cut short" in error_of(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "is damaged or cut short" in error_of(path)
