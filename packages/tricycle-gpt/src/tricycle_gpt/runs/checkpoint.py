"""Checkpoints: all that is needed to go on exactly where a run stood.

A checkpoint is a folder:

    step-00000250/
        parameters.safetensors   the weights, by their names in the model
        optimiser.safetensors    AdamW's moments and counters
        state.json               step, position in the data, configs, versions
        MANIFEST.json            size and sha256 of each of the others, written last

It is written as step-00000250.tmp, every file is flushed to the disk, then the folder is
renamed: a rename happens wholly or not at all.  So at every moment, through a crash, a full
disk or a pulled plug, each folder without .tmp is complete, and the one before it is still
there.  A folder whose files do not match its manifest, or cannot be read, counts as not being
there.

Nothing is ever unpickled: safetensors and JSON hold numbers and text, not code.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from tricycle_autograd.arrays import is_floating
from tricycle_gpt.runs.whole_files import read_arrays, room_for, write_arrays, write_text

PARAMETERS = "parameters.safetensors"
OPTIMISER = "optimiser.safetensors"
STATE = "state.json"
MANIFEST = "MANIFEST.json"
FORMAT = 1  # of what is written here
REPLACED = ".replaced"  # steps aside for a new one of the same step
FILES = (PARAMETERS, OPTIMISER, STATE, MANIFEST)
MAKE_ROOM = (
    "Make room, or keep fewer (--training.keep-checkpoints), then go on with --resume: those "
    "written before are whole"
)
FOLDER_NAME = re.compile(rf"step-(\d{{8,}})({re.escape(REPLACED)})?")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    step        steps taken when it was written
    parameters  weights by name
    optimiser   the optimiser's state_dict
    state       everything else, as it was given to save_checkpoint
    """

    step: int
    parameters: dict[str, np.ndarray]
    optimiser: dict[str, np.ndarray]
    state: dict[str, Any]


class CheckpointError(ValueError):
    """A checkpoint that is damaged, incomplete or missing."""


def save_checkpoint(
    folder: str | Path,
    step: int,
    parameters: dict[str, np.ndarray],
    optimiser: dict[str, np.ndarray],
    state: dict[str, Any],
    *,
    keep: int = 2,
    keep_best: bool = False,
) -> Path:
    """Write one checkpoint below `folder`, then remove all but the `keep` newest that are whole.

    parameters, optimiser  arrays by name (state_dict() of a model and of an optimiser)
    state                  anything JSON can hold
    keep_best              keep the one with the lowest state["validation_loss"] too

    Returns the checkpoint's folder.  Raises OSError if it cannot be written (a full disk),
    FloatingPointError, naming them, for numbers that are not finite, and ValueError for keep below
    1; the checkpoints already there are not touched before the new one is safe.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, the new checkpoint itself; got {keep}")
    _refuse_what_is_not_finite(step, parameters, optimiser)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob("step-*.tmp"):
        shutil.rmtree(abandoned)
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{final.name}.tmp"
    n_bytes = sum(np.asarray(a).nbytes for a in (*parameters.values(), *optimiser.values()))
    try:
        with room_for(final, n_bytes, MAKE_ROOM):
            temporary.mkdir()
            write_arrays(temporary / PARAMETERS, parameters)
            write_arrays(temporary / OPTIMISER, optimiser)
            _write_json(temporary / STATE, {**state, "step": step}, sort_keys=True)
            written = (PARAMETERS, OPTIMISER, STATE)
            files = {name: _fingerprint(temporary / name) for name in written}
            _write_json(temporary / MANIFEST, {"version": FORMAT, "files": files})
            _flush(temporary)
    except BaseException:  # half of it would take room on a disk that may be full
        shutil.rmtree(temporary, ignore_errors=True)
        raise

    replaced = folder / f"{final.name}{REPLACED}"
    if final.exists():  # a damaged one, or the same step saved again
        _remove(replaced)
        final.rename(replaced)  # still a checkpoint, until the next line
    temporary.rename(final)
    _flush(folder)
    _known_whole[final] = _stamp(final)
    try:
        _prune(folder, final, keep, keep_best)
    except OSError as error:  # nothing is lost: the next save tries again
        print(f"warning: an old checkpoint could not be removed: {error}", file=sys.stderr)
    return final


def _refuse_what_is_not_finite(step, parameters, optimiser):
    bad = [
        name
        for name, array in [*parameters.items(), *optimiser.items()]
        if is_floating(np.asarray(array).dtype) and not np.isfinite(array).all()
    ]
    if bad:
        raise FloatingPointError(
            f"after step {step} there are numbers that are not finite in {', '.join(bad[:3])}"
            f"{' and others' if len(bad) > 3 else ''}, so no checkpoint was written; those before "
            "are as they were. A lower learning rate, in a run of its own, usually helps"
        )


def _prune(folder, newest, keep, keep_best):
    """Remove what is no longer wanted: never `newest`, which was written just now.

    What is damaged does not count as kept, and goes when enough that are whole are newer.
    """
    for replaced in folder.glob(f"step-*{REPLACED}"):
        if replaced.with_suffix("").exists():
            _remove(replaced)
        else:  # a kill came before what was to take its place
            replaced.rename(replaced.with_suffix(""))
    # A later one is damaged, or the run was rewound past it: it does not count.
    found = list_checkpoints(folder)
    found = found[: found.index(newest) + 1]
    best = _best(found) if keep_best else None
    older, kept = found[:-1], 1
    while older and kept < keep:
        kept += _is_whole(older.pop())
    for old in older:
        if old != best:
            _remove(old)


def _remove(path):
    """Remove a folder; first out of sight, so that a kill leaves no half of a checkpoint."""
    if path.exists():
        hidden = path.rename(path.with_name(f"{path.name}.tmp"))
        shutil.rmtree(hidden)


# What this process has written or read, and its files' sizes and times then: what is as it was is
# not read again at every save.
_known_whole: dict[Path, Any] = {}


def _stamp(path):
    """By which one sees whether a checkpoint's files were touched."""
    found = [(path / name).stat() for name in FILES]
    return [(file.st_ino, file.st_size, file.st_mtime_ns) for file in found]


def _is_whole(path):
    try:
        if _known_whole.get(path) != _stamp(path):
            verify(path)
            _known_whole[path] = _stamp(path)
    except (CheckpointError, OSError):
        return False
    return True


def _best(found):
    """The whole one with the lowest validation loss, the later of equals; None if none has one."""
    losses = []
    for path in filter(_is_whole, found):
        try:
            state = read_state(path)
        except CheckpointError:
            continue
        loss = state.get("validation_loss")
        # NaN is neither smaller nor larger.
        if isinstance(loss, int | float) and math.isfinite(loss):
            losses.append((loss, -state["step"], path))
    return min(losses)[2] if losses else None


def best_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint below `folder` with the lowest validation loss; None if none has one."""
    return _best(list_checkpoints(folder))


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read one checkpoint, after checking every byte of it against its manifest.

    Raises CheckpointError that says what is missing or damaged.
    """
    folder = Path(folder)
    verify(folder)
    stamp = _stamp(folder)
    state = read_state(folder)
    found = Checkpoint(
        step=state["step"],
        parameters=_read_arrays(folder / PARAMETERS),
        optimiser=_read_arrays(folder / OPTIMISER),
        state=state,
    )
    _known_whole[folder] = stamp
    return found


def read_state(folder):
    """A checkpoint's state.json: an object with the step in it."""
    path = folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    step = state.get("step") if isinstance(state, dict) else None
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{path} should hold an object with the step in it, from 0 up")
    return state


def _read_arrays(path):
    try:
        return read_arrays(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no arrays that can be read: {error}") from error


def load_newest_checkpoint(folder: str | Path) -> Checkpoint | None:
    """The newest checkpoint below `folder` that is whole, or None if there is none at all.

    Says on stderr which damaged ones it passed over.  Raises CheckpointError if there are
    checkpoints and all are damaged: starting afresh is then for a person to decide.
    """
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            print(f"warning: passing over a damaged checkpoint: {error}", file=sys.stderr)
    if found:
        raise CheckpointError(
            f"every checkpoint in {folder} is damaged; remove them to start from the beginning"
        )
    return None


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoint folders below `folder`, oldest first; half-written ones are not counted."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    named = [(FOLDER_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    numbered = {path: int(m[1]) for m, path in named if m}
    for path in list(numbered):  # a kill may have come between two renames
        if path.name.endswith(REPLACED) and path.with_suffix("") in numbered:
            del numbered[path]
    return sorted(numbered, key=numbered.__getitem__)


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises CheckpointError if one differs, is missing or cannot be read.
    """
    try:
        _verify(folder)
    except OSError as error:  # a disk that cannot give back what it took
        raise CheckpointError(f"{folder} cannot be read: {error}") from error


def _verify(folder):
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["version"], manifest["files"]
        expected = {name: (files[name]["size"], files[name]["sha256"]) for name in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder} has no readable {MANIFEST}") from error
    if version != FORMAT:
        raise CheckpointError(f"{folder} has version {version!r}, expected {FORMAT}")
    for name in (PARAMETERS, OPTIMISER, STATE):
        if name not in expected:
            raise CheckpointError(f"{folder / MANIFEST} does not list {name}")
    if others := sorted(expected.keys() - {PARAMETERS, OPTIMISER, STATE}):
        raise CheckpointError(
            f"{folder / MANIFEST} lists files that are not ours: {', '.join(others)}"
        )
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        found = _fingerprint(path)
        if found["size"] != size:
            raise CheckpointError(f"{path} has {found['size']} bytes, expected {size}")
        if found["sha256"] != digest:
            raise CheckpointError(f"{path} does not have the sha256 in its manifest")


def _write_json(path, value, **options):
    write_text(path, json.dumps(value, indent=1, **options) + "\n")


def _flush(folder):
    """Have the disk remember which names a folder holds."""
    if os.name == "nt":  # Windows keeps folders itself and cannot open them
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path):
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}
