"""A folder of prepared data: ids to train on and ids to check with, and what they were made from.

    train/, validation/   two shard folders, see token_shards.py
    tokenizer.json        the tokeniser that made them
    data.json             the source, the split, the tokeniser and the counts; its "train" and
                          "validation" are there when all is done
    prepare.lock          empty; who prepares has it locked

`prepare` makes one, and continues one that was stopped: data.json is written first, so the same
commit of a dataset, and the tokeniser that was learned, are used again.  Of several processes that
ask for one folder, one makes it and the others wait.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tricycle_datasets.one_at_a_time import one_at_a_time
from tricycle_datasets.source import Source
from tricycle_datasets.token_shards import TokenShards
from tricycle_datasets.whole_files import write_whole

SIDES = ("train", "validation")
END_OF_TEXT = "<|endoftext|>"


class Encodes(Protocol):
    """A tokeniser that writes shard folders, such as tricycle_bpe's."""

    def fingerprint(self) -> str:
        """A hash of what decides which ids a text gets."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json."""
        ...

    def encode_documents(
        self,
        documents: Iterable[str],
        out: str | Path,
        *,
        workers: int,
        shard_tokens: int,
        max_tokens: int | None,
        document_separator: str,
    ) -> Path:
        """Write a shard folder, or continue one that was stopped."""
        ...


@dataclass(frozen=True)
class Prepared:
    """Two rows of ids, and the record of where they are from.

    train             ids to learn from
    validation        ids to check with, and validation_bytes, the length of their text
    record            what data.json says
    """

    train: TokenShards
    validation: TokenShards
    validation_bytes: int
    record: dict[str, Any]

    @property
    def end_of_text(self) -> str:
        """The special token that ends each document."""
        return self.record.get("end_of_text", END_OF_TEXT)

    def facts(self) -> dict[str, str]:
        """What must be the same when a run is resumed: hashes of both sides and the tokeniser."""
        return {
            "train": self.train.digest,
            "validation": self.validation.digest,
            "tokeniser": self.record["tokeniser"],
        }


def read_record(place: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What data.json says; None where there is none.  ValueError if it is no object of JSON."""
    path = Path(place) / "data.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}): remove {place} and prepare again"
        ) from None
    parts = [record, *(record.get(side, {}) for side in SIDES)] if isinstance(record, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"{path} should hold an object, with one for each of {' and '.join(SIDES)}, got "
            f"{record!r:.80}: remove {place} and prepare again"
        )
    return record


def is_prepared(place: str | os.PathLike[str]) -> bool:
    """Whether a folder holds prepared data, all of it."""
    record = read_record(place)
    return record is not None and set(SIDES) <= record.keys()


def prepare(
    source: Source,
    place: str | os.PathLike[str],
    tokeniser: Encodes,
    *,
    workers: int = 1,
    max_tokens: int | None = None,
    shard_tokens: int = 8_000_000,
    end_of_text: str = END_OF_TEXT,
) -> None:
    """Encode both sides of a source to a folder, or continue; does nothing if it is finished.

    max_tokens  stop after the training document that reaches it, and take as validation text what
                comes before it; None for everything
    end_of_text the special token that ends each document
    raises      ValueError if the folder was made, or started, from other texts, with another
                split, limit or tokeniser
    """
    place = Path(place)
    place.mkdir(parents=True, exist_ok=True)
    asked = {
        "source": source.record,
        "validation_share": source.share,
        "split_seed": source.seed,
        "tokeniser": tokeniser.fingerprint(),
        "max_tokens": max_tokens,
        "end_of_text": end_of_text,
    }
    if is_prepared(place):  # perhaps where nothing may be written
        _check_same(place, {"end_of_text": END_OF_TEXT} | (read_record(place) or {}), asked)
        return

    def encode(documents: Iterable[str], side: str, max_tokens: int | None) -> None:
        tokeniser.encode_documents(
            documents,
            place / side,
            workers=workers,
            shard_tokens=shard_tokens,
            max_tokens=max_tokens,
            document_separator=end_of_text,
        )

    with one_at_a_time(place / "prepare.lock", f"prepares {place}"):
        earlier = read_record(place)
        if earlier is None:
            tokeniser.save(place)
            _write_record(place, asked)
        else:
            _check_same(place, {"end_of_text": END_OF_TEXT} | earlier, asked)
        if not (place / "train").exists():
            encode(source.training(), "train", max_tokens)
        if not (place / "validation").exists():
            beside = None if max_tokens is None else _index(place / "train")["n_documents"]
            encode(source.validation(beside), "validation", None)
        counts = ("n_tokens", "n_documents", "n_bytes")
        indices = {side: _index(place / side) for side in SIDES}
        done = {side: {name: indices[side][name] for name in counts} for side in SIDES}
        _write_record(place, asked | done)


def open_prepared(
    place: str | os.PathLike[str], tokeniser_sha256: str, record: dict[str, Any] | None = None
) -> Prepared:
    """Open a folder of prepared data, every file verified.

    tokeniser_sha256  of the tokeniser that the model is for
    record            what it should have been made from: a source's record; None for anything
    raises            ShardError, a ValueError, for any fault of the files; ValueError for a folder
                      made from something else
    """
    place = Path(place)
    found = read_record(place)
    if found is None:
        raise ValueError(
            f"{place} holds no prepared data: there is no data.json; make it with prepare(...), or "
            "give the folder that prepare was given"
        )
    if record is not None:
        _check_same(place, found, {"source": record})
    train, validation = (
        TokenShards(place / side, tokeniser_sha256=tokeniser_sha256) for side in SIDES
    )
    return Prepared(train, validation, found["validation"]["n_bytes"], found)


def _essence(source: dict[str, Any]) -> Any:
    """Of a record, what makes the texts the same: not the path, which may be another one."""
    return [
        source.get(key) for key in ("name", "repo", "commit", "sha256", "field", "skip_unreadable")
    ]


def _check_same(place: Path, earlier: dict[str, Any], asked: dict[str, Any]) -> None:
    differ = [
        f"{name} was {earlier.get(name)!r:.200}, is {now!r:.200}"
        for name, now in asked.items()
        if (name == "source" and _essence(earlier.get(name, {})) != _essence(now))
        or (name != "source" and earlier.get(name) != now)
    ]
    if differ:
        raise ValueError(
            f"{place} was prepared differently: {'; '.join(differ)}. Ask for the same as then, "
            "choose another folder, or remove that one"
        )


def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def _write_record(place: Path, record: dict[str, Any]) -> None:
    write_whole(place / "data.json", (json.dumps(record, indent=1) + "\n").encode())
