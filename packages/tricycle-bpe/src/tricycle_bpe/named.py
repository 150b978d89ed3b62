"""Tokenisers known by name, fetched when first asked for.

OpenAI publishes the ranks of its tokenisers as files. They are not part of this package: each is
downloaded once into the user's cache folder, and believed only if its sha256 is the one written
here. A download that was cut off is continued where it stopped, and one that brings more bytes than
the file has, or takes ten minutes, is ended.
"""

import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple

from .progress import Progress
from .whole_files import alone_at, sha256_of

SOURCE = "https://openaipublic.blob.core.windows.net/encodings/"
SECONDS_TO_ANSWER = 30
SECONDS_IN_ALL = 600  # for one call: a server may send a byte now and then, for ever
BLOCK_BYTES = 1 << 16

SHA256 = {
    "r50k_base.tiktoken": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "p50k_base.tiktoken": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "cl100k_base.tiktoken": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base.tiktoken": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
SIZES = {  # in bytes
    "r50k_base.tiktoken": 835_554,
    "p50k_base.tiktoken": 836_186,
    "cl100k_base.tiktoken": 1_681_126,
    "o200k_base.tiktoken": 3_613_922,
}


class Named(NamedTuple):
    """A published tokeniser: its rank file, its pattern, its special tokens."""

    file: str
    pattern: str
    special_tokens: dict[str, int]


END = "<|endoftext|>"
FILL_IN = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
HARMONY = {
    "<|startoftext|>": 199998,
    END: 199999,
    **{f"<|reserved_{i}|>": i for i in range(200000, 201088)},
}
for _token, _id in {
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    "<|endofprompt|>": 200018,
}.items():
    HARMONY.pop(f"<|reserved_{_id}|>", None)
    HARMONY[_token] = _id

NAMED = {
    "gpt2": Named("r50k_base.tiktoken", "gpt2", {END: 50256}),
    "r50k_base": Named("r50k_base.tiktoken", "gpt2", {END: 50256}),
    "p50k_base": Named("p50k_base.tiktoken", "gpt2", {END: 50256}),
    "p50k_edit": Named(
        "p50k_base.tiktoken", "gpt2", {END: 50256, **dict(zip(FILL_IN, range(50281, 50284)))}
    ),
    "cl100k_base": Named(
        "cl100k_base.tiktoken",
        "cl100k",
        {END: 100257, **dict(zip(FILL_IN, range(100258, 100261))), "<|endofprompt|>": 100276},
    ),
    "o200k_base": Named("o200k_base.tiktoken", "o200k", {END: 199999, "<|endofprompt|>": 200018}),
    "o200k_harmony": Named("o200k_base.tiktoken", "o200k", HARMONY),
}


def cache_folder() -> Path:
    """Where rank files are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tricycle_bpe" / "ranks"


def fetch(name: str, source: str = SOURCE) -> tuple[Path, str, dict[str, int]]:
    """Make sure that a tokeniser's rank file is in the cache.

    Of several processes that want it at once one fetches it, and the others wait.

    returns  the path of the file, the pattern, the special tokens
    raises   ValueError for an unknown name or a wrong file, OSError if it cannot be downloaded
    """
    if name not in NAMED:
        raise ValueError(f"there is no tokeniser named {name!r}; known are {', '.join(NAMED)}")
    file, pattern, special_tokens = NAMED[name]
    path = cache_folder() / file

    def is_there() -> bool:
        return path.is_file() and sha256_of(path) == SHA256[file]

    if not is_there():
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_at(path.with_name(f"{file}.lock")):
            try:
                if not is_there():  # another process may have fetched it meanwhile
                    download(source + file, path, SIZES[file], SHA256[file])
            except urllib.error.URLError as error:
                raise OSError(
                    f"{source + file} could not be downloaded ({error}). Without a network, fetch "
                    f"that file elsewhere and put it at {path}"
                ) from error
    return path, pattern, special_tokens


def download(url: str, path: Path, size: int, sha256: str) -> None:
    """Download a file of `size` bytes to `path`, from where an earlier attempt stopped.

    raises  ValueError if what arrived is not what was expected, urllib.error.URLError
    """
    partial = path.with_name(path.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    if have < size:
        try:
            with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER) as response:
                if response.status != 206:  # the server sends all of it again
                    have = 0
                _append(response, partial, have, size)
        except (TimeoutError, HTTPException, ConnectionError) as error:
            raise urllib.error.URLError(str(error) or type(error).__name__) from error
    if partial.stat().st_size != size or sha256_of(partial) != sha256:
        partial.unlink()
        raise ValueError(
            f"{url} is not the expected file: it has not {size:,} bytes, or its sha256 is not "
            f"{sha256}"
        )
    os.replace(partial, path)


def _append(response: HTTPResponse, partial: Path, have: int, size: int) -> None:
    """Write what a server sends after the first `have` bytes of a file, and not a byte too many."""
    name = partial.stem
    late = time.monotonic() + SECONDS_IN_ALL
    with open(partial, "ab" if have else "wb") as out, Progress(name, size, "B") as progress:
        progress.update(have)
        while have < size and (block := response.read1(min(BLOCK_BYTES, size - have))):
            out.write(block)
            have += len(block)
            progress.update(len(block))
            if time.monotonic() > late:
                break
    if have < size:
        how = "too slow" if time.monotonic() > late else "cut"
        raise urllib.error.URLError(
            f"the connection was {how} after {have} of {size} bytes; another call continues from "
            "there"
        )
