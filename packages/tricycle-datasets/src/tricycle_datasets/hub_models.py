"""A model's folder from the Hugging Face hub: pinned, bounded, checked, and never run.

    folder = hub_model("HuggingFaceTB/SmolLM2-135M")          or owner/name@revision

A branch may move, so its name is turned into a commit first, and the files of that commit are kept
in a folder of its own.  Which files are fetched is decided here, by their names: settings, the
tokeniser, the chat template, and weights in safetensors.  Nothing else that a hub lists is looked
at, wherever it says that it lies.  How large they are is said first, and held to a limit; of each
file no byte more is read than that, and its hash must be the one that the hub lists.

Models that ask for a token are not fetched: download them by hand (`hf download`), and name the
folder.
"""

import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tricycle_datasets.whole_files import sha256_of

NAME = re.compile(r"(?:hub:)?([\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*)(?:@([\w./-]+))?", re.ASCII)
SETTINGS = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    "chat_template.jinja",
)
INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
LARGEST = 20_000_000_000  # bytes of a model
LARGEST_SETTINGS = 200_000_000  # of a file besides: a tokenizer.json has some ten million
LONGEST_ANSWER = 16_000_000  # of the hub, to a question


def is_hub_model(name: str) -> bool:
    """Whether a word names a model on the hub: hub:owner/name, or owner/name where no owner/ is.

    What ends as a file of weights does, or begins with runs/, is a place on this machine.
    """
    found = NAME.fullmatch(name)
    if (
        found is None
        or ".." in name
        or name.startswith("runs/")
        or name.endswith((".gguf", ".bin"))
    ):
        return False
    return name.startswith("hub:") or not Path(found[1].split("/")[0]).exists()


def hub_model(
    name: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
    largest: int = LARGEST,
    say: Callable[[str], None] = print,
) -> tuple[Path, str]:
    """Fetch a model's files, unless they are there.

    name      owner/name or owner/name@revision (a branch, a tag, a commit)
    folder    where models are kept; below `cache_folder()`, see download.py, if not given
    endpoint  the hub's address, if not HF_ENDPOINT or https://huggingface.co
    largest   bytes that a model may have
    say       hears how much is to be fetched, before it is

    returns   the folder, and the name with the commit: it gives the same files again
    raises    ValueError for another kind of name, for a model without weights in safetensors, and
              for one that is too large; ConnectionError if the hub cannot be reached, refuses, or
              gives anything else than it lists
    """
    from tricycle_datasets.download import cache_folder, fetch_file  # which bring the internet

    found = NAME.fullmatch(name)
    if found is None or ".." in name:
        raise ValueError(
            f"wanted the name of a model on the hub, owner/name@revision, got {name!r}"
        )
    repo, revision = found[1], found[2] or "main"
    hub = (endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    commit = revision
    kept = Path(folder) if folder is not None else cache_folder() / "hub-models"
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        commit = _commit_of(repo, revision, hub)
    place = kept / repo.replace("/", "--") / commit
    pinned = f"{repo}@{commit}"
    if (place / "complete").is_file():
        return place, pinned
    files = _chosen(_asked(f"{hub}/api/models/{repo}/tree/{commit}"), hub, pinned, largest)
    total = sum(size for size, _ in files.values())
    say(f"fetching {len(files)} files of {pinned}: {total:,} bytes, to {place}")
    for path, (size, is_right) in files.items():
        url = f"{hub}/{repo}/resolve/{commit}/{path}"
        fetch_file(url, place / path, size=size, is_right=is_right)
    (place / "complete").touch()
    return place, pinned


def _commit_of(repo: str, revision: str, hub: str) -> str:
    """The commit that a branch or a tag names just now."""
    url = f"{hub}/api/models/{repo}/revision/{urllib.parse.quote(revision, safe='')}"
    try:
        about = _asked(url)
    except ConnectionError as error:
        raise ConnectionError(
            f"there is no folder {repo} here, and as a model on the hub: {error}"
        ) from error
    commit = about.get("sha") if isinstance(about, dict) else None
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ConnectionError(f"{hub} gave {commit!r:.80} for a commit of {repo}")
    return commit


def _asked(url: str) -> Any:
    """The hub's answer in JSON; ConnectionError for anything else."""
    from tricycle_datasets.download import fetch_answer

    try:
        return json.loads(fetch_answer(url, LONGEST_ANSWER))
    except (ValueError, RecursionError) as error:
        raise ConnectionError(f"{url} did not answer in JSON: {error!s:.200}") from error


def _chosen(
    listed: Any, hub: str, where: str, largest: int
) -> dict[str, tuple[int, Callable[[Path], bool]]]:
    """Of the files that are listed those to be fetched: their sizes, and whether one is right."""
    if not isinstance(listed, list):
        raise ConnectionError(f"{hub} gave no list of the files of {where}")
    entries = {
        e["path"]: e for e in listed if isinstance(e, dict) and isinstance(e.get("path"), str)
    }
    several = INDEX in entries and "model.safetensors" not in entries
    weights = sorted(path for path in entries if WEIGHTS.fullmatch(path))
    if not several:
        weights = [path for path in weights if path == "model.safetensors"]
    if "config.json" not in entries or not weights:
        raise ValueError(
            f"{where} is not a model that can be read: wanted config.json and model.safetensors, "
            f"found {', '.join(sorted(entries)[:8]) or 'nothing'}"
        )
    others = [path for path in SETTINGS if path in entries] + [INDEX] * several
    files = {path: _checked(entries[path], hub, where) for path in (*others, *weights)}
    total = sum(size for size, _ in files.values())
    too_large = [path for path in others if files[path][0] > LARGEST_SETTINGS]
    if total > largest or too_large:
        what = ", ".join(too_large) or where
        raise ValueError(
            f"{what} is too large: the files of {where} have {total:,} bytes, and no more than "
            f"{largest:,} are fetched ({LARGEST_SETTINGS:,} of a file that holds no weights)"
        )
    return files


def _checked(entry: dict, hub: str, where: str) -> tuple[int, Callable[[Path], bool]]:
    """A file's size, and what says whether a file is this one: its sha256, or else git's hash."""
    large = entry.get("lfs") if isinstance(entry.get("lfs"), dict) else None
    size, own = (large or entry).get("size"), (large or entry).get("oid")
    length = 64 if large else 40
    if type(size) is not int or size < 0 or not re.fullmatch(rf"[0-9a-f]{{{length}}}", str(own)):
        raise ConnectionError(
            f"{hub} lists {entry['path']} of {where} with size {size!r:.40} and hash {own!r:.80}"
        )
    if large:
        return size, lambda path: sha256_of(path) == own
    return size, lambda path: _git_hash(path) == own


def _git_hash(path: Path) -> str:
    """The hash that git gives a file's content: of its length and its bytes."""
    hashed = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()
