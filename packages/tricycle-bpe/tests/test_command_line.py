"""python -m tricycle_bpe, as a user types it."""

import io
import json
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from tricycle_bpe import Tokeniser, show
from tricycle_bpe.__main__ import main


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "book.txt").write_text("the cat and the hat\n" * 5)
    out = tmp_path / "tokeniser"
    main(["train", str(tmp_path / "book.txt"), "--vocab-size=262", "--out", str(out)])
    return out


def test_train_writes_a_tokeniser_and_says_so(tmp_path, capsys):
    (tmp_path / "book.txt").write_text("the cat and the hat\n" * 5)
    folder = tmp_path / "new" / "tokeniser"
    main(["train", str(tmp_path), "--vocab-size=262", "--out", str(folder)])
    assert f"{folder}: 262 tokens, 6 merges" in capsys.readouterr().out
    assert Tokeniser.load(folder).decode(Tokeniser.load(folder).encode("the hat")) == "the hat"


def test_ids_go_out_and_come_back(folder, capsysbinary, monkeypatch):
    capsysbinary.readouterr()
    main(["encode", str(folder), "--text", "the hat, été"])
    ids = capsysbinary.readouterr().out
    assert [int(i) for i in ids.split()] == Tokeniser.load(folder).encode("the hat, été")
    monkeypatch.setattr(sys, "stdin", io.StringIO(ids.decode()))
    main(["decode", str(folder)])
    assert capsysbinary.readouterr().out.decode() == "the hat, été"


def test_text_comes_from_standard_input_too(folder, capsys, monkeypatch):
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"the hat")))
    main(["count", str(folder)])
    assert capsys.readouterr().out.startswith("7 characters, 7 bytes, ")


def test_encode_writes_a_shard_folder(folder, tmp_path):
    book, out = tmp_path / "book.txt", tmp_path / "shards"
    main(["encode", str(folder), str(book), "--out", str(out)])
    n_tokens = json.loads((out / "index.json").read_text())["n_tokens"]
    assert n_tokens == Tokeniser.load(folder).count(book.read_text())


def test_count_tells_scripts_apart(folder):
    rows = show.bytes_per_token_by_script(Tokeniser.load(folder), "the the 漢字 123")
    assert rows == [
        ("LATIN", 6, 3.0),
        ("CJK", 6, 1.0),
        ("blanks", 3, 1.0),
        ("digits", 3, 1.0),
    ]


def test_show_puts_neighbours_in_different_colours(folder, capsys):
    capsys.readouterr()
    main(["show", str(folder), "--text", "the hat é", "--colour=always"])
    shown = capsys.readouterr().out
    assert "the" in shown and "<c3>" in shown
    assert shown.count("\x1b[0m") == len(Tokeniser.load(folder).encode("the hat é"))


def test_show_has_bars_instead_of_colours_in_a_pipe_and_where_none_are_wanted(
    folder, capsys, monkeypatch
):
    capsys.readouterr()
    main(["show", str(folder), "--text", "the hat"])
    assert capsys.readouterr().out == "the| |hat\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(["show", str(folder), "--text", "the hat"])
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["show", str(folder), "--text", "the hat"])
    assert capsys.readouterr().out == "the| |hat\n"


def test_what_is_there_is_not_written_over_unless_asked(folder, tmp_path, capsys):
    (tmp_path / "page.html").write_text("mine")
    train = ["train", str(tmp_path / "book.txt"), "--vocab-size=260", "--out", str(folder)]
    page = ["show", str(folder), "--text", "the", "--html", str(tmp_path / "page.html")]
    for command in train, page:
        with pytest.raises(SystemExit):
            main(command)
        assert "exists already; choose another place, or pass --ov" in capsys.readouterr().err
    assert Tokeniser.load(folder).n_vocab == 262
    assert (tmp_path / "page.html").read_text() == "mine"
    main([*train, "--overwrite"])
    assert Tokeniser.load(folder).n_vocab == 260


def test_fewer_tokens_than_asked_for_are_said(tmp_path, capsys):
    (tmp_path / "book.txt").write_text("abab")
    train = ["train", str(tmp_path / "book.txt"), "--vocab-size=1000", "--out", str(tmp_path / "t")]
    main(train)
    said = capsys.readouterr().err
    assert "tricycle_bpe: 1,000 tokens were asked for and 258 made: no other pair" in said


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tricycle-bpe {version('tricycle-bpe')}\n"


def test_show_writes_a_page_that_escapes_the_text(folder, tmp_path):
    page = tmp_path / "page.html"
    main(["show", str(folder), "--text", "the <b>", "--html", str(page)])
    assert "&lt;" in page.read_text() and "<b>" not in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "nothing", "--text", "x"], "there is no tokeniser named 'nothing'"),
        (["count", "TOKENISER", "missing.txt"], "No such file or directory: 'missing.txt'"),
        (["encode", "TOKENISER", "--text", "x", "--out", "y"], "--out needs a file or a folder"),
        (["train", "missing", "--vocab-size=300", "--out", "y"], "missing is neither a file nor"),
        (["train", "x", "--vocab-size=3", "--out", "y"], "vocab_size 3 is too small"),
    ],
)
def test_mistakes_end_with_a_message(folder, arguments, message, capsys):
    arguments = [str(folder) if word == "TOKENISER" else word for word in arguments]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_text_is_named(folder, tmp_path, capsys):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"caf\xe9")
    for command in "count", "encode", "show", "decode":
        with pytest.raises(SystemExit):
            main([command, str(folder), str(path)])
        assert "latin1.txt" in capsys.readouterr().err


def test_words_are_not_ids(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 two"))
    with pytest.raises(SystemExit):
        main(["decode", str(folder)])
    assert "expected ids in decimal" in capsys.readouterr().err


def test_help_shows_an_example_of_each_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in "train", "encode", "decode", "count", "show":
        assert f"tricycle_bpe {command}" in shown
