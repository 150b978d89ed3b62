"""Any schedule of saves, faults, kills and damage: what is whole stays, until enough are newer."""

import errno
import math
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tricycle_gpt import CheckpointError, load_checkpoint, load_newest_checkpoint
from tricycle_gpt.runs import whole_files
from tricycle_gpt.runs.checkpoint import list_checkpoints, save_checkpoint


class Killed(BaseException):
    """The process is gone: nothing it would have done afterwards happens."""


class Disk:
    """The calls by which a save changes the disk, one of which fails, or is the last.

    failing  the number of that call, from 0
    kill     whether the process ends there, in the middle of the call, or gets an error
    """

    def __init__(self, failing=math.inf, kill=False):
        self.failing, self.kill, self.calls = failing, kill, 0

    def call(self, real, half):
        def called(*words, **options):
            number, self.calls = self.calls, self.calls + 1
            if self.kill and number >= self.failing:
                if number == self.failing:
                    half(*words)
                raise Killed
            if number == self.failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*words, **options)

        return called

    @contextmanager
    def watched(self):
        real_save, real_rmtree = whole_files.save_file, shutil.rmtree

        def half_a_file(arrays, path):
            real_save(arrays, path)
            os.truncate(path, os.path.getsize(path) // 2)

        def half_a_folder(path):
            for file in sorted(Path(path).iterdir())[::2]:
                file.unlink()

        def nothing(*words):
            pass

        places = [
            (whole_files, "save_file", real_save, half_a_file),
            (shutil, "rmtree", real_rmtree, half_a_folder),
            (Path, "rename", Path.rename, nothing),
            (Path, "mkdir", Path.mkdir, nothing),
            (os, "fsync", nothing, nothing),  # here only the order matters
        ]
        with ExitStack() as stack:
            for owner, name, real, half in places:
                stack.enter_context(patch.object(owner, name, self.call(real, half)))
            yield


def whole_in(folder):
    """(step, serial, loss) of each checkpoint that can be loaded."""
    found = []
    for path in list_checkpoints(folder):
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            continue
        assert loaded.parameters["serial"] == loaded.optimiser["serial"] == loaded.state["serial"]
        found.append((loaded.step, loaded.state["serial"], loaded.state["validation_loss"]))
    return found


def save(folder, step, serial, loss, **options):
    arrays = {"serial": np.array(serial)}
    state = {"serial": serial, "validation_loss": loss}
    save_checkpoint(folder, step, arrays, arrays, state, **options)


def damage(folder, which, position):
    found = list_checkpoints(folder)
    if found:
        path = found[which % len(found)]
        files = sorted(path.iterdir())
        file = files[position % len(files)]
        content = file.read_bytes()
        file.write_bytes(content[: position % max(len(content), 1)])


def lowest(found):
    """Of those with a number for a loss, the lowest, the latest of equals."""
    measured = [one for one in found if one[2] is not None and math.isfinite(one[2])]
    return min(measured, key=lambda one: (one[2], -one[0]), default=None)


losses = st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0, math.nan, math.inf]))
saves = st.tuples(st.just("save"), st.integers(0, 3), losses)
faults = st.tuples(st.just("fault"), st.integers(0, 3), losses, st.integers(0, 25), st.booleans())
damages = st.tuples(st.just("damage"), st.integers(0, 5), st.integers(0, 500))


# Killed as an earlier one with the same step stands aside for the new one.
STANDS_ASIDE = [("save", 0, None), ("fault", 0, None, 10, False), ("save", 1, None)]


@example(STANDS_ASIDE, 2, False)
@given(
    st.lists(st.one_of(saves, faults, damages), min_size=1, max_size=12),
    st.integers(1, 3),
    st.booleans(),
)
def test_whatever_happens_what_is_wanted_and_whole_is_still_there(schedule, keep, keep_best):
    options = {"keep": keep, "keep_best": keep_best}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoints"
        for serial, (what, *words) in enumerate(schedule):
            before = whole_in(folder)
            if what == "damage":
                damage(folder, *words)
                continue
            ahead, loss, *fault = words
            step = max((step for step, _, _ in before), default=0) + ahead  # 0: the same once more
            disk = Disk(*fault)
            try:
                with disk.watched():
                    save(folder, step, serial, loss, **options)
            except (OSError, Killed):
                assert disk.calls > disk.failing
            after = whole_in(folder)
            assert set(after) <= {*before, (step, serial, loss)} or math.isnan(loss or 0)
            if before:
                newest = load_newest_checkpoint(folder)
                assert newest.step in (step, before[-1][0]), "the newest was lost"
            others = [one for one in before if one[0] != step]
            if disk.calls <= disk.failing:  # nothing went wrong
                assert [one[:2] for one in after][-1] == (step, serial)
                wanted = [*others, (step, serial, loss)]
                best = lowest(wanted) if keep_best else None
                kept = wanted[-keep:] + [best] * (best is not None and best not in wanted[-keep:])
                assert sorted(one[0] for one in after) == sorted(one[0] for one in kept)
                assert not list(folder.glob("*.tmp"))
                assert not list(folder.glob("*.replaced"))
            else:
                best = lowest(others) if keep_best else None
                assert {one[0] for one in before[-keep:][1:]} <= {one[0] for one in after}
                assert best is None or lowest(after)[2] <= best[2], "the best was lost"
