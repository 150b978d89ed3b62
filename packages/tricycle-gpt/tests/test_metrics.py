"""metrics.jsonl and the picture made from it."""

import os
from pathlib import Path

import pytest

from tricycle_gpt import plot_loss, read_metrics
from tricycle_gpt.metrics import MetricsLog
from tricycle_gpt.progress import duration


def test_resuming_cuts_the_file_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(5):
        log.write(step=step, loss=1.0)
    log.close()
    MetricsLog(path, step=3).close()
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2]


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "open"), (Path, "replace")])
def test_a_disk_that_fails_while_it_is_cut_back_leaves_every_line(
    tmp_path, monkeypatch, owner, name
):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n')

    def full(*words, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(OSError, match="No space left"):
            MetricsLog(path, step=1)
    assert [row["step"] for row in read_metrics(path)] == [0, 1]


def test_a_line_cut_by_a_crash_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1.5}\n{"step": 1, "lo')
    assert read_metrics(path) == [{"step": 0, "loss": 1.5}]


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2 is not JSON: 'nonsense'"):
        read_metrics(path)


def test_a_picture_is_drawn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(50):
        log.write(
            step=step, loss=4.0 - step / 20, **({"validation_loss": 3.0} if step == 25 else {})
        )
    log.close()
    plot_loss(path, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_time_spans_read_as_people_say_them():
    assert [duration(s) for s in (3.4, 75, 7260)] == ["3 s", "1 min 15 s", "2 h 1 min"]
