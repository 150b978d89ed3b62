"""Documents from datasets on the Hugging Face hub: pinned, checked, one at a time.

    documents = hub_documents("fineweb-edu")
    for text in documents: ...

- *Pinned.*  A branch may move while one reads it, so its name is turned into a commit first, and
  only files of that commit are read.  `documents.record` has the commit and the sha256 and size of
  every file: enough to get the same texts again.
- *Checked.*  huggingface-hub fetches a file, and continues after a cut where it was; a file is read
  only when its sha256 is the one that the hub lists for it.  A file that is wrong on the disk is
  fetched once more, and one that the server gives wrongly twice is an error.
- *One at a time.*  Files are fetched when they are reached, and read a few rows at a time.  They
  stay on the disk, in one folder for each commit, which may be deleted any time; only a file that
  was not fetched to its end when the process ended starts from its beginning.
- *Continued.*  `documents.position` is (file, row group, row) of the next text: three integers.

Needs huggingface-hub and pyarrow (the extra `hub`), imported when they are first needed.  A token,
for datasets that ask for one, is found as huggingface-hub finds it (`hf auth login`, HF_TOKEN).

This file, top to bottom: datasets with short names, the documents, finding files, fetching them.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tricycle_datasets.parquet_files import import_pyarrow, parquet_texts
from tricycle_datasets.whole_files import sha256_of

# What the hub's own converter makes of datasets that are not parquet: all of a small one, the
# first 5 GB of a large one (in a folder named partial-train).
CONVERTED = "refs/convert/parquet"
SPLITS = ("train", "validation", "valid", "val", "dev", "test")


@dataclass(frozen=True)
class HubDataset:
    """Where on the hub a dataset lies.

    files     a pattern for the paths of its .parquet files; None for all that fit the split
    column    which of their columns holds the text
    revision  a branch, a tag or a commit
    """

    repo: str
    files: str | None = None
    column: str = "text"
    revision: str = "main"


HUB_DATASETS = {
    "fineweb": HubDataset("HuggingFaceFW/fineweb", "sample/10BT/*.parquet"),
    "fineweb-edu": HubDataset("HuggingFaceFW/fineweb-edu", "sample/10BT/*.parquet"),
    "openwebtext": HubDataset("Skylion007/openwebtext", None, "text", CONVERTED),
    "codeparrot": HubDataset("codeparrot/codeparrot-clean", None, "content", CONVERTED),
}


def hub_documents(
    name: str,
    *,
    split: str = "train",
    files: str | None = None,
    column: str | None = None,
    revision: str | None = None,
    start: tuple[int, int, int] = (0, 0, 0),
    folder: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
) -> "HubDocuments":
    """Iterate over the texts of a dataset on the Hugging Face hub.

    name      "fineweb", "fineweb-edu" (10 billion tokens of each), "openwebtext", "codeparrot", or
              any "owner/name" with .parquet files
    split     read files whose paths name it ("data/train-00000-of-00004.parquet"); where no path
              names a split at all, all are "train"
    files     instead of the split: a pattern for paths, such as "sample/100BT/*.parquet"
    column    which column holds the text; "text", unless the dataset is known to differ
    revision  a branch, a tag or a commit; to get the same texts again, the record's commit
    start     (file, row group, row) as read from `position`, of the same commit
    folder    where files are kept; below `cache_folder()`, see download.py, if not given
    endpoint  the hub's address, if not HF_ENDPOINT or https://huggingface.co
    raises    at once: ValueError for a name, a split or a start that is not there; ConnectionError
              if the hub cannot be reached or refuses; ImportError without the extra.  On reaching
              it: ConnectionError for a file that cannot be had or is not the right one, ValueError
              for one without such a column, or with anything but text
    """
    from tricycle_datasets.download import cache_folder  # here, since it brings the internet

    known = HUB_DATASETS.get(name)
    if known is None:
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*", name):  # and no ../..
            raise ValueError(
                f"no dataset {name!r}: wanted one of {', '.join(HUB_DATASETS)}, or owner/name as "
                "on the Hugging Face hub"
            )
        known = HubDataset(name)
    return HubDocuments(
        HubDataset(
            known.repo,
            files or (known.files if split == "train" else None),
            column or known.column,
            revision or known.revision,
        ),
        split=split,
        start=start,
        folder=Path(folder) if folder is not None else cache_folder() / "hub",
        endpoint=endpoint,
    )


class HubDocuments:
    """The texts of a dataset, in order; made by `hub_documents`.

    After an error the next text may be asked for again.

    record  {"repo", "revision", "commit", "column", "files": [{"path", "size", "sha256"}, …]}: what
            these texts are, in plain values
    """

    def __init__(
        self,
        dataset: HubDataset,
        *,
        split: str,
        start: tuple[int, int, int],
        folder: Path,
        endpoint: str | None,
    ):
        import_pyarrow()
        self._hub = _Hub(dataset.repo, folder, endpoint)
        commit, files = self._hub.files(dataset.revision, dataset.files)
        chosen = _choose(files, split, dataset)
        self.record: dict[str, Any] = {
            "repo": dataset.repo,
            "revision": dataset.revision,
            "commit": commit,
            "column": dataset.column,
            "files": chosen,
        }
        if len(start) != 3 or not 0 <= start[0] < len(chosen) or min(start) < 0:
            raise ValueError(
                f"start {start} is not a (file, row group, row) of the {len(chosen)} files of "
                f"{dataset.repo} at commit {commit}; was it saved with another revision?"
            )
        self._position = start[0], start[1], start[2]  # a list, where it comes from a JSON file
        self._rows: Iterator[tuple[tuple[int, int, int], str]] | None = None

    @property
    def position(self) -> tuple[int, int, int]:
        """(file, row group, row) of the next text, to start another one from."""
        return self._position

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # An error ends a generator; the next call then starts a new one, at the position.
        rows, self._rows = self._rows or self._read(self._position), None
        (file, group, row), text = next(rows)
        self._rows, self._position = rows, (file, group, row + 1)
        return text

    def _read(self, start: tuple[int, int, int]) -> Iterator[tuple[tuple[int, int, int], str]]:
        files, column = self.record["files"], self.record["column"]
        for number in range(start[0], len(files)):
            path = self._hub.fetch(files[number], self.record["commit"])
            here = start[1:] if number == start[0] else (0, 0)
            for group, row, text in parquet_texts(path, column, here):
                yield (number, group, row), text


# ---- Which files ----


def _choose(files: list[dict[str, Any]], split: str, dataset: HubDataset) -> list[dict[str, Any]]:
    """Those of the parquet files that were asked for, in the order of their paths."""
    paths = [file["path"] for file in files]
    where = f"{dataset.repo} at revision {dataset.revision}"
    if not paths:
        raise ValueError(
            f"{where} has no .parquet files; the hub's own conversion may: revision={CONVERTED!r}"
        )
    if dataset.files is not None:
        chosen = set(fnmatch.filter(paths, dataset.files))
        if not chosen:
            raise ValueError(f"no file of {where} fits {dataset.files!r}; it has {_some(paths)}")
    else:
        chosen = {path for path in paths if _names(path, split)}
        if not chosen and split == "train" and not any(_names(p, s) for p in paths for s in SPLITS):
            chosen = set(paths)
        if not chosen:
            raise ValueError(f"no file of {where} is of the split {split!r}; it has {_some(paths)}")
        if len(folders := {os.path.dirname(path) for path in chosen}) > 1:
            raise ValueError(
                f"{where} has files in {len(folders)} folders, and the same texts may be in two; "
                f"choose with files=..., for example {min(folders)}/*.parquet"
            )
    for file in files:
        if file["path"] in chosen and file["sha256"] is None:
            raise ValueError(f"{file['path']} of {where} has no sha256 on the hub to be held to")
    return sorted((file for file in files if file["path"] in chosen), key=lambda f: f["path"])


def _names(path: str, split: str) -> bool:
    """Whether a path names a split, as "data/train-00000.parquet" and "train/0.parquet" do."""
    return re.search(rf"(?<![a-zA-Z0-9]){re.escape(split)}(?![a-zA-Z0-9])", path) is not None


def _some(paths: list[str]) -> str:
    return ", ".join(sorted(paths)[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


# ---- The hub ----


class _Hub:
    """One dataset on the hub, and the folder where its files are kept."""

    def __init__(self, repo: str, folder: Path, endpoint: str | None):
        self.library = _import_huggingface_hub()
        self.repo, self.folder = repo, folder
        self.api = self.library.HfApi(endpoint=endpoint)
        # The names of what goes wrong on the way; HTTPError is that of the library beneath it.
        errors = self.library.errors
        self.failures = (OSError, errors.HTTPError, errors.EntryNotFoundError)

    def files(self, revision: str, pattern: str | None) -> tuple[str, list[dict[str, Any]]]:
        """The commit of a revision, and its parquet files: {"path", "size", "sha256"} each.

        Only those in the folder that the pattern names before its first "*", "?" or "[": all files
        of FineWeb would take many requests.
        """
        inside = os.path.dirname(re.split(r"[*?\[]", pattern or "")[0])
        try:
            commit = self.api.dataset_info(self.repo, revision=revision).sha
            if not re.fullmatch(r"\w{1,64}", str(commit)):  # a folder is called so
                raise ConnectionError(f"it gave {commit!r:.80} for a commit")
            tree = self.api.list_repo_tree(
                self.repo, inside or None, repo_type="dataset", revision=commit, recursive=True
            )
            files = [entry for entry in tree if entry.path.endswith(".parquet")]
        except self.library.errors.EntryNotFoundError as error:
            raise ValueError(
                f"no file of {self.repo} at revision {revision} fits {pattern!r}: it has no folder "
                f"{inside!r}"
            ) from error
        except self.failures as error:
            _let_the_system_speak(error)
            raise ConnectionError(
                f"could not list the dataset {self.repo} (revision {revision}) at "
                f"{self.api.endpoint}: {_first_line(error)}"
            ) from error
        for entry in files:
            _refuse_to_leave_the_folder(entry.path, self.api.endpoint)
        return commit, [
            {"path": f.path, "size": f.size, "sha256": f.lfs.sha256 if f.lfs else None}
            for f in files
        ]

    def fetch(self, file: dict[str, Any], commit: str) -> Path:
        """The path of a file on the disk, with the right sha256; raises ConnectionError."""
        folder = self.folder / self.repo / commit
        for again in (False, True):
            try:
                path = self.api.hf_hub_download(
                    self.repo,
                    file["path"],
                    repo_type="dataset",
                    revision=commit,
                    local_dir=folder,
                    force_download=again,
                )
            except self.failures as error:
                _let_the_system_speak(error)
                raise ConnectionError(
                    f"could not fetch {file['path']} of {self.repo} from {self.api.endpoint}: "
                    f"{_first_line(error)}. Try again when there is a connection: texts continue "
                    "where they were"
                ) from error
            sha256 = sha256_of(Path(path))
            if sha256 == file["sha256"]:
                return Path(path)
        raise ConnectionError(
            f"{self.api.endpoint} gave another {file['path']} of {self.repo} at commit {commit} "
            f"than it lists: sha256 {sha256}, wanted {file['sha256']}; try again later, or from "
            "another network"
        )


def _refuse_to_leave_the_folder(path: str, endpoint: str) -> None:
    """Raise ConnectionError for a path that is not one below the folder where files are kept."""
    parts = path.split("/")
    if re.search(r"[\\\0]|^[A-Za-z]:", path) or {"", ".", ".."} & set(parts):
        raise ConnectionError(
            f"{endpoint} lists a file {path!r:.120}, which would lie outside of the folder where "
            "files are kept: nothing is fetched"
        )


def _import_huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            "datasets on the hub need huggingface-hub: pip install 'tricycle-datasets[hub]'"
        ) from error
    return huggingface_hub


def _let_the_system_speak(error: BaseException) -> None:
    """Raise an error that is the system's own, such as a full disk: no connection is to blame."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
