"""metrics.jsonl and the picture made from it."""

import os
import re
from contextlib import closing
from pathlib import Path

import pytest

from tricycle_gpt import plot_loss, read_metrics
from tricycle_gpt.runs import picture
from tricycle_gpt.runs.metrics import MetricsLog
from tricycle_gpt.runs.picture import LossPicture
from tricycle_gpt.runs.progress import Progress, duration


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


def disk_full_from(path, room):
    """As os.write, on a disk where this file can have so many bytes and no more."""
    written = os.write

    def write(descriptor, data):
        left = room[0] - os.fstat(descriptor).st_size
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            return written(descriptor, data)
        if left <= 0:
            raise OSError(28, "No space left on device")
        return written(descriptor, data[:left])

    return write


def test_rows_wait_for_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch, capsys):
    path = tmp_path / "metrics.jsonl"
    log, room = MetricsLog(path), [20]
    monkeypatch.setattr(os, "write", disk_full_from(path, room))
    for step in range(5):
        log.write(step=step)
    assert path.stat().st_size == 20
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        log.sync()
    room[0] = 1000
    log.write(step=5)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3, 4, 5]
    log.close()
    assert capsys.readouterr().err.count("takes no rows (No space left on device)") == 1


def test_rows_that_never_found_room_are_lost_with_a_word_and_hide_no_error(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setattr(os, "write", disk_full_from(path, [20]))
    with pytest.raises(KeyError, match="the first"), closing(MetricsLog(path)) as log:
        for step in range(3):
            log.write(step=step)
        raise KeyError("the first")
    assert log._file.closed
    assert [row["step"] for row in read_metrics(path)] == [0]
    assert "metrics.jsonl lacks its last rows, 16 bytes (No space left" in capsys.readouterr().err


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    monkeypatch.setattr(os, "write", disk_full_from(path, [20]))
    for step in range(3):
        log.write(step=step)
    with pytest.raises(
        OSError, match=r"it takes 16 bytes, and .* are free\. Make room, then go on"
    ):
        log.sync()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_an_error_that_passes_costs_no_row(tmp_path, monkeypatch, call):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    times, real = [], getattr(os, call)

    def fails_once(*words):
        times.append(words)
        if len(times) == 1:
            raise OSError(5, "Input/output error")
        return real(*words)

    monkeypatch.setattr(os, call, fails_once)
    for step in range(3):
        log.write(step=step)
    log.sync()
    log.close()
    assert [row["step"] for row in read_metrics(log.path)] == [0, 1, 2]


def test_a_line_cut_by_a_crash_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1.5}\n{"step": 1, "lo')
    assert read_metrics(path) == [{"step": 0, "loss": 1.5}]


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2 is not JSON with a step: 'nonsense'"):
        read_metrics(path)


NO_ROWS = [
    b"nonsense",
    b"\xff\xfe",
    b"\0\0\0",
    b"[]",
    b"7",
    b"{}",
    b'{"step": "1"}',
    b"[" * 100_000,
    b"",
]


@pytest.mark.parametrize("line", NO_ROWS)
def test_a_line_that_is_no_row_is_one_error_or_passed_over_by_a_resumed_run(tmp_path, line, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 1}\n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 2 is not JSON with a step"):
        read_metrics(path)
    MetricsLog(path, step=2).close()
    assert [row["step"] for row in read_metrics(path)] == [0, 1]
    assert "metrics.jsonl: 1 lines are no rows, left out" in capsys.readouterr().err


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


def test_the_measure_of_the_whole_text_is_not_on_the_line_of_looks_at_a_part(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(4):
        log.write(step=step, loss=4.0 - step, learning_rate=0.1, validation_loss=4.5 - step)
    log.write(step=4, validation_loss=1.0)
    log.close()
    plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    lines = {bars.get_label(): bars.lines[0] for bars in drawn[0].axes[0].containers}
    part, whole = lines.values()
    assert list(lines) == ["validation, a part of the text", "validation, the whole text"]
    assert list(part.get_xdata()) == [0, 1, 2, 3]
    assert (list(whole.get_xdata()), list(whole.get_ydata())) == ([4], [1.0])


def test_time_spans_read_as_people_say_them():
    assert [duration(s) for s in (3.4, 75, 7260)] == ["3 s", "1 min 15 s", "2 h 1 min"]


def test_the_shown_loss_begins_with_the_first_step_that_has_one(capsys):
    with Progress(steps=4, start=0, log_every=1) as progress:
        for step, loss in enumerate([{}, {"loss": 5.0}, {}, {"loss": 4.0}]):
            progress.show({"step": step, **loss}, tokens=10)
    shown = re.findall(r"step \d/4  (no loss yet|loss \d\.\d+)", capsys.readouterr().err)
    assert shown == ["no loss yet", "loss 5.000", "loss 5.000", "loss 4.900"]


def test_without_a_process_to_draw_it_there_is_no_picture_and_no_error(tmp_path, monkeypatch):
    def none_left(*words, **options):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(picture, "PAUSE", 0.0)
    monkeypatch.setattr(picture.subprocess, "Popen", none_left)
    with LossPicture(tmp_path) as drawing:
        drawing._can_draw = True
        assert not drawing.redraw()
