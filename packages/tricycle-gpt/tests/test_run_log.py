"""The log of a run: one that tells everything, and one that tells nothing."""

import json

import pytest

from tricycle_gpt.runs import run_log
from tricycle_gpt.runs.metrics import MetricsLog
from tricycle_gpt.runs.run_log import RunLog, SilentRunLog


class Notebook:
    """A tracker that remembers."""

    run_id = "abc"

    def __init__(self):
        self.told = []

    def begin(self, recipe, run_id=None):
        self.told.append(("begin", recipe, run_id))

    def log(self, row):
        self.told.append(("row", row))

    def file(self, path, folder=""):
        self.told.append(("file", path.name, folder))

    def end(self, status, patience=None):
        self.told.append(("end", status))


ROW = {"step": 4, "loss": 2.5}


def test_what_happens_is_in_the_file_on_the_screen_and_with_the_tracker(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 4, "loss": 9.0}\n')
    tracker = Notebook()
    with RunLog(tmp_path, 4, 5, 1, tracker) as log:
        log.begin({"a": 1}, "abc")
        log.step(ROW, 100)
        log.sample(5, "words")
        log.row({"step": 5, "validation_loss": 3.0})
        log.sync()
        assert log.run_id == "abc"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 3}, ROW, {"step": 5, "validation_loss": 3.0}]
    assert (tmp_path / "samples" / "step-00000005.txt").read_text() == "words\n"
    said = capsys.readouterr().err
    assert "step 5/5  loss 2.500" in said
    assert "step 5 writes: 'words'" in said
    assert tracker.told == [
        ("begin", {"a": 1}, "abc"),
        ("row", ROW),
        ("file", "step-00000005.txt", "samples"),
        ("row", rows[2]),
    ]


def test_a_tracker_is_told_of_a_failure_and_none_is_needed(tmp_path):
    tracker = Notebook()
    with pytest.raises(OSError, match="full"), RunLog(tmp_path, 0, 5, 1, tracker):
        raise OSError("full")
    assert tracker.told == [("end", "failed")]
    with RunLog(tmp_path, 0, 5, 1) as log:
        log.begin({}, None)
        log.step(ROW, 100)
        assert log.run_id is None


def test_the_silent_log_has_every_method_and_does_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with SilentRunLog() as log:
        log.begin({}, None)
        log.step(ROW, 100)
        log.row(ROW)
        log.sample(1, "words")
        log.say("words")
        log.sync()
        assert log.run_id is None
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
    methods = {name for name, value in vars(RunLog).items() if callable(value)}
    assert methods <= vars(SilentRunLog).keys()
    with pytest.raises(AttributeError):
        log.no_such_method()


def test_what_is_open_is_closed_again_if_a_later_part_fails(tmp_path, monkeypatch):
    opened = []

    class Remembered(MetricsLog):
        def __init__(self, *words):
            super().__init__(*words)
            opened.append(self._file)

    def fails(*words):
        raise OSError("no terminal")

    monkeypatch.setattr(run_log, "MetricsLog", Remembered)
    monkeypatch.setattr(run_log, "Progress", fails)
    with pytest.raises(OSError, match="no terminal"), RunLog(tmp_path, 0, 1, 1):
        pass
    assert [file.closed for file in opened] == [True]
