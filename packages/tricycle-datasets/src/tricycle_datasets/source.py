"""Where texts come from: one word for a file, a folder or a dataset of the hub, parted in two.

    open_source("novel.txt")         a file or a folder, as `read_documents` takes them
    open_source("fineweb-edu")       a dataset of the hub, by its short name …
    open_source("hub:owner/name")    … or any other
    open_source(None)                the works of Shakespeare

A source can be read any number of times, one document at a time, and is parted into training and
validation text before anything is learned from either:

    fewer than 20 documents     joined, and cut once: the end of the text is for validation
    fewer than 400              the documents in front, by a hash of their text, but one at least
    more                        each by its hash, as `is_validation` does

`record` says, in plain values, what the texts are: the path and the sha256 of the files, or the
commit of a dataset and the sha256 of its files.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tricycle_datasets.hub import HUB_DATASETS, hub_documents
from tricycle_datasets.other_ids import is_ids
from tricycle_datasets.shakespeare import load_shakespeare
from tricycle_datasets.splitting import PLACES, check_fraction, place_of, split_text
from tricycle_datasets.text_files import files_of, read_documents
from tricycle_datasets.whole_files import sha256_of

FEW = 20
MANY = 400


class Source:
    """Documents that can be read again, parted in two; made by `open_source`.

    name     in a few letters, for people
    record   what the texts are, in plain values
    is_hub   whether they come from the hub, from which one rarely wants everything
    """

    def __init__(
        self,
        name: str,
        record: dict[str, Any],
        read: Callable[[], Iterator[str]],
        validation: float,
        seed: int,
    ):
        check_fraction(validation)
        self.name, self.record, self.read = name, record, read
        self.is_hub = "commit" in record
        self.share, self.seed = validation, seed
        self._cut: int | tuple[str, str] | None = None

    def training(self) -> Iterator[str]:
        """The documents to learn from, in the order of the source."""
        cut = self._find_cut()
        if isinstance(cut, tuple):
            return iter(cut[:1])
        return (text for text in self.read() if place_of(text, self.seed) >= cut)

    def beginning(self, n_bytes: int) -> Iterator[str]:
        """The first documents to learn from, `n_bytes` of them or a little more; at least one."""
        for text in self.training():
            yield text
            n_bytes -= len(text.encode())
            if n_bytes <= 0:
                return

    def validation(self, beside: int | None = None) -> Iterator[str]:
        """The documents to check with.

        beside  only those before training document `beside` (counted from 0), at least one; for a
                training text cut at that document
        """
        cut = self._find_cut()
        if isinstance(cut, tuple):
            return iter(cut[1:])
        return self._in_front(cut, beside)

    def _in_front(self, cut: int, beside: int | None) -> Iterator[str]:
        passed = given = 0
        for text in self.read():
            if place_of(text, self.seed) < cut:
                if beside is not None and passed > beside and given:
                    return
                yield text
                given += bool(text)
            elif text:  # encoders pass over documents without text
                passed += 1
                if beside is not None and passed > beside and given:
                    return
        if not given:
            raise ValueError(
                f"validation={self.share:g} of {self.name} is not one document with text: take a "
                "larger share"
            )

    def _find_cut(self) -> int | tuple[str, str]:
        """Where in the line of places validation ends; or both texts, where they are few."""
        if self._cut is None:
            places = [place_of(text, self.seed) for text in islice(self.read(), MANY)]
            if len(places) == MANY:
                self._cut = int(self.share * PLACES)
            elif len(places) >= FEW:
                self._cut = sorted(places)[max(1, round(self.share * len(places))) - 1] + 1
                if max(places) < self._cut:
                    raise ValueError(
                        f"no document of {self.name} is left to train on: they are all the same, "
                        f"or validation={self.share:g} is too large a share"
                    )
            else:
                self._cut = split_text("\n\n".join(self.read()), self.share)
        return self._cut


def open_source(
    data: str | os.PathLike[str] | None,
    validation: float = 0.05,
    *,
    seed: int = 0,
    field: str | None = None,
    record: dict[str, Any] | None = None,
    skip_unreadable: bool = False,
) -> Source:
    """Find the texts that a word stands for.

    data        a path; a name in HUB_DATASETS, if no file is called so, or "hub:" and a name;
                None for the works of Shakespeare
    validation  the share of the documents that is kept for validation
    seed        another seed keeps others
    field       where records keep their text; "text", unless the hub's dataset is known to differ
    record      of an earlier source: if it is of the same dataset of the hub, its commit is taken
    skip_unreadable  leave out what cannot be read, as `read_documents` does
    raises      FileNotFoundError; ValueError for what cannot be read; as `hub_documents` does
    """
    if data is None:
        return Source("shakespeare", {"name": "shakespeare"}, _shakespeare, validation, seed)
    word = str(data)
    if word.startswith("hub:") or (word in HUB_DATASETS and not Path(word).exists()):
        return _open_hub(word.removeprefix("hub:"), validation, seed, field, record)
    path = Path(data)
    if not path.exists():
        raise FileNotFoundError(
            f"no file or folder at {path} (looked in {Path.cwd()}), and no dataset is called so: "
            f"there are {', '.join(HUB_DATASETS)} and, on the Hugging Face hub, hub:owner/name"
        )
    if (path / "index.json").is_file():
        raise ValueError(
            f"{path} is a folder of ids of one side only; prepared data is a folder with train/, "
            "validation/ and data.json in it"
        )
    found = record_of(path, field)
    options: dict[str, Any] = {"field": field} if field else {}
    if skip_unreadable:
        options["skip_unreadable"] = found["skip_unreadable"] = True
    return Source(path.name, found, lambda: read_documents(path, **options), validation, seed)


def _shakespeare() -> Iterator[str]:
    return iter([load_shakespeare()])


def _open_hub(
    name: str, validation: float, seed: int, field: str | None, record: dict[str, Any] | None
) -> Source:
    repo = HUB_DATASETS[name].repo if name in HUB_DATASETS else name
    then = record if record is not None and record.get("repo") == repo else {}
    first = hub_documents(name, column=field, revision=then.get("commit"))
    pinned = first.record["commit"]

    def read() -> Iterator[str]:
        return hub_documents(name, column=field, revision=pinned)

    revision = then.get("revision", first.record["revision"])
    return Source(name, first.record | {"revision": revision}, read, validation, seed)


def record_of(path: Path, field: str | None) -> dict[str, Any]:
    """What files of texts are: path and sha256; of a folder, the sha256 of a list of each file's
    sha256 and path."""
    if path.is_file() and is_ids(path):
        raise ValueError(
            f"{path} is a file of token ids, not of text: open it with read_ids and give that to "
            "Batches; or decode it with the tokeniser that made it, and give the text"
        )
    read_documents(path)  # raises for what cannot be read, before anything is
    files = files_of(path)
    lines = []
    for file in files:
        sha256 = sha256_of(file)
        name = os.fsencode(file.relative_to(path).as_posix())  # which need not be UTF-8
        lines.append(f"{sha256}  ".encode() + name + b"\n")
    of_all = hashlib.sha256(b"".join(lines)).hexdigest() if path.is_dir() else sha256
    found = {
        "path": str(path.resolve()),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": of_all,
    }
    return found | ({"field": field} if field else {})
