"""Documents from files: every kind, in a fixed order, exactly as they are, or a clear error."""

import bz2
import gzip
import json
import lzma
import os
import random
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_datasets import open_source, parquet_files, read_documents, read_ids, text_files
from tricycle_datasets.decompression import pieces_of
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
    wanted = "table.csv: wanted a .txt, .md, .jsonl, .ndjson, .json or .parquet file, perhaps comp"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        read_documents(tmp_path / "table.csv")


def test_a_folder_without_documents_is_named_at_once(tmp_path):
    with pytest.raises(
        ValueError, match="no .txt, .md, .jsonl, .ndjson, .json or .parquet file in "
    ):
        read_documents(tmp_path)


def test_empty_files_are_left_out_of_a_folder_and_said(folder):
    (folder / "c" / "empty.md").write_text("")
    with pytest.warns(UserWarning, match=r"3 files are read, and left out are 1 \.csv, 1 empty"):
        assert len(list(read_documents(folder))) == 4
    with pytest.raises(ValueError, match=r"empty\.md is empty: put text in it"):
        read_documents(folder / "c" / "empty.md")


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
    assert "is empty: put text in it" in error_of(path)
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


# ---- Kinds of files ----


PACKED = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


@pytest.mark.parametrize("packed", PACKED)
def test_every_kind_is_read_packed_or_not(tmp_path, packed):
    records = [{"text": "one"}, {"text": "zwei ä"}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    whole = {
        "a.txt": "one",
        "b.md": "zwei ä",
        "c.jsonl": lines,
        "d.ndjson": lines.rstrip(),
        "e.json": json.dumps(records),
        "f.json": json.dumps(records[0]),
        "g.json": lines,
        "h.json": json.dumps(["one", "zwei ä"]),
    }
    for name, text in whole.items():
        (tmp_path / (name + packed)).write_bytes(PACKED[packed](text.encode()))
    both = ["one", "zwei ä"]
    assert list(read_documents(tmp_path)) == both * 4 + ["one"] + both * 2


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz", ".zst"])
def test_packed_files_may_be_joined_and_are_named_where_they_are_cut(tmp_path, packed):
    one, two = (PACKED[packed](f'{{"text": "{word}"}}\n'.encode()) for word in ("one", "two"))
    path = tmp_path / f"corpus.jsonl{packed}"
    path.write_bytes(one + two)
    assert list(read_documents(path)) == ["one", "two"]
    for size in range(1, len(one), 5):
        path.write_bytes(one[:size])
        assert "is damaged or cut short" in error_of(path)


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_a_bomb_is_one_error_and_little_memory(tmp_path, monkeypatch, name, packed):
    monkeypatch.setattr(text_files, "LONGEST_DOCUMENT", 3_000_000)
    (tmp_path / (name + packed)).write_bytes(PACKED[packed](b" " * 50_000_000))
    tracemalloc.start()
    assert "of more than 3,000,000 bytes" in error_of(tmp_path / (name + packed)).replace(
        "to", "of"
    )
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 30_000_000


def test_a_field_may_lie_in_a_field(tmp_path):
    record = {"a.b": "dotted", "message": {"content": "inner"}, "turns": [{"text": "first"}]}
    (tmp_path / "c.jsonl").write_text(json.dumps(record) + "\n")
    pq.write_table(pa.table({"message": [{"content": "inner", "n": 1}]}), tmp_path / "t.parquet")
    for field, text in {
        "a.b": "dotted",
        "message.content": "inner",
        "turns.0.text": "first",
    }.items():
        assert list(read_documents(tmp_path / "c.jsonl", field=field)) == [text]
    assert list(read_documents(tmp_path / "t.parquet", field="message.content")) == ["inner"]
    assert 'has no field "turns.1.text"' in error_of(tmp_path / "c.jsonl", field="turns.1.text")
    assert 'there is no "role" in struct' in error_of(tmp_path / "t.parquet", field="message.role")


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())]
    + [pa.string_view() for _ in range(hasattr(pa, "string_view"))],
    ids=str,
)
def test_a_column_of_text_may_be_of_any_kind_and_have_gaps(tmp_path, kind):
    array = pa.array(["one", None, "zwei ä"], pa.string()).cast(kind)
    pq.write_table(pa.table({"text": array}), tmp_path / "t.parquet")
    with pytest.warns(UserWarning, match=r"t.parquet: 1 rows hold nothing \(null\)"):
        assert list(read_documents(tmp_path / "t.parquet")) == ["one", "zwei ä"]


def test_a_table_of_one_long_text_many_times_is_read_a_few_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "BYTES_AT_ONCE", 1_000_000)
    pq.write_table(pa.table({"text": ["x" * 500_000] * 300}), tmp_path / "t.parquet")
    table = pq.ParquetFile(tmp_path / "t.parquet")
    assert parquet_files._rows_at_once(table, 0, "text") == 1
    assert sum(len(text) for text in read_documents(tmp_path / "t.parquet")) == 150_000_000


def test_links_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "deep.txt").write_text("deep")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "near.txt").write_text("near")
    (tmp_path / "corpus" / "far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "back").symlink_to(tmp_path / "corpus")
    assert list(read_documents(tmp_path / "corpus")) == ["deep", "near"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want names to be text")
def test_a_name_that_is_not_utf_8_is_a_name(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")
    with open(path, "w") as file:
        file.write("one two\n\nthree four")
    assert list(read_documents(tmp_path)) == ["one two\n\nthree four"]
    assert open_source(tmp_path, 0.4).record["files"] == 1
    with open(path, "wb") as file:
        file.write(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        list(read_documents(tmp_path))


# ---- What cannot be read ----


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ("to be".encode("utf-16"), "it is UTF-16: iconv -f utf-16 -t utf-8"),
        ("to be or nöt".encode("utf-16-le") * 9, "it seems to be UTF-16: iconv -f utf-16le"),
        ("to be".encode("utf-32"), "it is UTF-32"),
        ("日本語の文章です。".encode("shift_jis"), "it may be shift_jis"),
        ("汉字".encode("gb18030") + b"\n", "gb18030"),
        ("café au lait, s'il vous plaît".encode("latin1"), "iconv -f windows-1252 -t utf-8"),
        (gzip.compress(b"one"), "it is a gzip file: give it a name that ends with .gz"),
        (lzma.compress(b"one"), "it is an xz file"),
        (b"PK\x03\x04\xff", "it is a zip archive"),
        (b"%PDF-1.7 \xff", "it is a PDF"),
        ("naïve ä ö ü é è ".encode() * 9 + b"\xff.", "it is UTF-8 but for a few bytes"),
        (b"caf" + b"\xc3", "it ends within a character"),
    ],
)
def test_the_advice_is_for_what_the_bytes_are(tmp_path, data, advice):
    (tmp_path / "a.txt").write_bytes(data)
    assert advice in error_of(tmp_path / "a.txt")


def test_a_git_lfs_pointer_is_named(tmp_path):
    for name in "a.txt", "a.parquet", "a.jsonl.xz":
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
        assert "is a Git LFS pointer, not the file itself: git lfs pull" in error_of(
            tmp_path / name
        )


def test_one_attempt_names_all_bad_files_or_leaves_them_out(folder):
    (folder / "bad1.txt").write_bytes(b"\xff\xfea")
    (folder / "bad2.jsonl").write_text('{"text": "good"}\n{"no": 1}\n{"text": "fine"}\n')
    (folder / "z.jsonl.xz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="3 files cannot be read .skip_unreadable") as caught:
        list(read_documents(folder))
    for name in "bad1.txt is not UTF-8", "line 2 of ", "bad2.jsonl", "z.jsonl.xz is damaged":
        assert name in str(caught.value)
    with pytest.warns(UserWarning, match="1 left out, the first: ") as said:
        texts = list(read_documents(folder, skip_unreadable=True))
    assert texts == ["first\n", "second\n", "good", "fine", "third", "fourth"]
    assert sum("left out, the first" in str(warning.message) for warning in said) == 3
    source = open_source(folder, 0.3, skip_unreadable=True)
    assert source.record["skip_unreadable"]
    assert "good" in next(source.training())


# ---- Fuzzing ----


def test_mutated_files_are_read_or_are_one_error(tmp_path):
    """Whatever is done to a file, it is read or there is a ValueError."""
    lines = b'{"text": "one"}\n{"text": "zw\xc3\xa4i", "n": [1, {"a": null}]}\n' * 3
    whole = {f"a.jsonl{end}": pack(lines) for end, pack in PACKED.items()}
    whole |= {"a.txt.gz": PACKED[".gz"](b"to be"), "a.json": b'[{"text": "one"}, "two"]'}
    pq.write_table(pa.table({"text": ["one", "two"] * 4}), tmp_path / "t.parquet")
    whole["t.parquet"] = (tmp_path / "t.parquet").read_bytes()
    for name, array in ("a.npy", np.arange(20, dtype=np.uint16)), ("b.npy", np.arange(9)):
        np.save(tmp_path / name, array)
        whole[name] = (tmp_path / name).read_bytes()
    whole["a.bin"] = np.array([20240520, 1, 8], "<i4").tobytes().ljust(1024, b"\0") + bytes(16)
    rng = random.Random(0)
    outcomes = [0, 0]
    for number in range(500_000 if os.environ.get("TRICYCLE_TEST_LONG") else 5000):
        name = rng.choice(list(whole))
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(mutated(whole[name], rng))
        try:
            if path.suffix in (".npy", ".bin"):
                int(read_ids(path)[-1])
            else:
                list(read_documents(path, skip_unreadable=number % 2 == 0))
            outcomes[0] += 1
        except ValueError as error:
            assert str(path) in str(error)
            outcomes[1] += 1
        path.unlink()
    assert min(outcomes) > 100


def test_a_parquet_file_that_contradicts_itself_does_not_end_the_process(tmp_path):
    """Any byte of what it tells of itself: one of them makes pyarrow abort, where it is asked for a
    column's size before the column is read."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["one", "two"] * 4}), path)
    whole, refused = path.read_bytes(), 0
    for i in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 3]) + whole[i + 1 :])
        try:
            list(read_documents(path))
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50


def mutated(data, rng):
    """Spoil a file a little: change, drop, double or cut some of its bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(data) or 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[i : i + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[i : i + rng.randint(1, 9)]
        elif kind == 2:
            data[i:i] = data[: rng.randint(1, 40)]
        elif kind == 3:
            data[i:i] = rng.choice([b"9" * 30, b"null", b"[[[", b'"', b"\xff", b"\0" * 8])
        else:
            del data[i:]
    return bytes(data)


def test_streams_of_xz_may_have_many_zeros_between_them(tmp_path):
    path = tmp_path / "two.txt.xz"
    path.write_bytes(lzma.compress(b"one ") + bytes(3_000_000) + lzma.compress(b"two") + bytes(8))
    assert b"".join(pieces_of(path)) == b"one two"
