"""Tokenisers known by name, fetched when first asked for.

OpenAI publishes the ranks of its tokenisers as files. They are not part of this package: each is
downloaded once into the user's cache folder, and believed only if its sha256 is the one written
here. A download that was cut off is continued where it stopped.
"""

import os
import urllib.error
import urllib.request
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple

from .progress import Progress
from .whole_files import sha256_of

SOURCE = "https://openaipublic.blob.core.windows.net/encodings/"
SECONDS_TO_ANSWER = 30
BLOCK_BYTES = 1 << 16

SHA256 = {
    "r50k_base.tiktoken": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "p50k_base.tiktoken": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "cl100k_base.tiktoken": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base.tiktoken": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
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

    returns  the path of the file, the pattern, the special tokens
    raises   ValueError for an unknown name or a wrong file, OSError if it cannot be downloaded
    """
    if name not in NAMED:
        raise ValueError(f"there is no tokeniser named {name!r}; known are {', '.join(NAMED)}")
    file, pattern, special_tokens = NAMED[name]
    path = cache_folder() / file
    if not (path.is_file() and sha256_of(path) == SHA256[file]):
        try:
            download(source + file, path, SHA256[file])
        except urllib.error.URLError as error:
            raise OSError(
                f"{source + file} could not be downloaded ({error}). Without a network, fetch that "
                f"file elsewhere and put it at {path}"
            ) from error
    return path, pattern, special_tokens


def download(url: str, path: Path, sha256: str) -> None:
    """Download a file to `path`, from where an earlier attempt stopped.

    raises  ValueError if what arrived is not what was expected, urllib.error.URLError
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER) as response:
            if response.status != 206:  # the server sends all of it again
                have = 0
            _append(response, partial, have)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # it has no more bytes to give: all of them are here
            raise
    if sha256_of(partial) != sha256:
        partial.unlink()
        raise ValueError(f"{url} is not the expected file: its sha256 is not {sha256}")
    os.replace(partial, path)


def _append(response: HTTPResponse, partial: Path, have: int) -> None:
    """Write what a server sends after the first `have` bytes of a file."""
    total = have + int(response.headers.get("Content-Length", 0))
    name = partial.stem
    with open(partial, "ab" if have else "wb") as out, Progress(name, total, "B") as progress:
        progress.update(have)
        while block := response.read(BLOCK_BYTES):
            out.write(block)
            progress.update(len(block))
    if partial.stat().st_size < total:
        raise urllib.error.URLError(
            f"the connection was cut after {partial.stat().st_size} of {total} bytes; "
            "another call continues from there"
        )
