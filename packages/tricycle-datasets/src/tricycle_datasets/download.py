"""A file from the internet: the right one, or none.

Connections break, proxies answer with a login page, servers replace files.  The caller therefore
says beforehand which bytes it wants, by their number and their sha256, and this is what it gets.

- *Never wrong.*  Bytes are collected in `NAME.part`.  Only when their sha256 is right and they have
  reached the disk (fsync) does the file get its name, in one step that cannot stop half-way
  (rename).  The bytes handed back are those that were hashed, not read again.
- *Resumed.*  After a cut, in the same call or in a later one, the server is asked for the rest only
  ("Range: bytes=1000-").  If the rest turns out not to belong to the beginning, because the file
  changed in between, all of it is fetched once more.
- *Safe for two processes at once.*  A lock lets one fetch while the other waits, and then finds the
  file in place.  The system drops the lock when its holder dies.
- *http and https only*, for redirects as well: no server may say "continue at file:///etc/passwd".

This file, top to bottom: the cache folder, the download, collecting the bytes, one connection.
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from tqdm import tqdm

from tricycle_datasets.whole_files import give_name, room_for

TIMEOUT = 20.0  # seconds without a byte after which a connection counts as broken
TRIES = 4  # connections in a row that bring nothing new before giving up
PAUSE = 0.5  # seconds before the second of them, doubled before each of the others
PIECE = 1 << 16  # bytes read at once, at most
SLOWEST = 10_000  # bytes a second, on the whole: a server may send a byte now and then, for ever
SECONDS_MORE = 120  # besides


def cache_folder() -> Path:
    """`tricycle/datasets` in $TRICYCLE_CACHE, else in $XDG_CACHE_HOME, else in ~/.cache."""
    chosen = os.environ.get("TRICYCLE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    root = Path(chosen) if chosen else Path.home() / ".cache"
    return root / "tricycle" / "datasets"


def download(url: str, path: Path, *, size: int, sha256: str) -> bytes:
    """The content of a file, from the disk if it is there and right, else from the internet.

    url      http:// or https://
    path     where the file is kept; its folder is made if need be
    size     bytes
    raises   ConnectionError if the file cannot be had; the message says what to put where by hand.
             OSError if the disk is full or the folder may not be written
    """
    content = _read_if_right(path, sha256)
    if content is not None:
        return content
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        content = _read_if_right(path, sha256)  # another process may have fetched it meanwhile
        if content is not None:
            return content
        part = path.with_name(path.name + ".part")
        try:
            with room_for(path, size, "Make room and try again: what has arrived is kept"):
                content = _collect(url, part, size, sha256)
        except (ConnectionError, _Hopeless) as error:
            wrong = "; the file that lies there now is not it" if path.exists() else ""
            raise ConnectionError(
                f"could not download {path.name}: {error}. Try again when there is a connection "
                f"(what has arrived is kept), or fetch {url} on another machine and put it at "
                f"{path} ({size:,} bytes, sha256 {sha256}{wrong})"
            ) from error
        give_name(part, path)
    return content


def fetch_file(url: str, path: Path, *, size: int, is_right: Callable[[Path], bool]) -> None:
    """Fetch a file that may be larger than memory, unless it is there.

    is_right  (a path) -> whether what lies there is the file
    raises    as `download` does
    """

    def is_there():
        return path.is_file() and path.stat().st_size == size and is_right(path)

    if is_there():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if is_there():  # another process may have fetched it meanwhile
            return
        part = path.with_name(path.name + ".part")
        try:
            with room_for(path, size, "Make room and try again: what has arrived is kept"):
                _fill(url, part, size, is_right)
        except (ConnectionError, _Hopeless) as error:
            kept = " (what has arrived is kept)" if part.exists() else ""
            raise ConnectionError(
                f"could not fetch {path.name}: {error}. Try again when there is a connection{kept}"
            ) from error
        give_name(part, path)


def _fill(url: str, part: Path, size: int, is_right: Callable[[Path], bool]) -> None:
    """Fill `part` until it is the file that is wanted."""
    for _ in range(2):  # the second time from nothing
        with open(part, "ab") as file:
            _append_rest(url, file, size)
            os.fsync(file.fileno())
        if part.stat().st_size == size and is_right(part):
            return
        part.unlink()
    raise _Hopeless(f"{url} gave another file than is listed")


def fetch_answer(url: str, longest: int) -> bytes:
    """A short answer, in memory; ConnectionError for none, and for one of more than `longest`."""
    late, found = time.monotonic() + SECONDS_MORE, b""
    try:
        with _opener().open(url, timeout=TIMEOUT) as response:
            while piece := response.read1(PIECE):
                found += piece
                if len(found) > longest or time.monotonic() > late:
                    raise ConnectionError(f"{url} does not come to an end: {len(found):,} bytes")
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"{url} answered {error.code} {error.reason}") from error
    except ConnectionError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"{url}: {error or type(error).__name__}") from error
    return found


def _read_if_right(path: Path, sha256: str) -> bytes | None:
    if not path.exists():
        return None
    content = path.read_bytes()
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _collect(url: str, part: Path, size: int, sha256: str) -> bytes:
    """Fill `part` until it holds the wanted bytes, and return them."""
    for _ in range(2):  # the second time from nothing
        with open(part, "ab") as file:
            _append_rest(url, file, size)
            os.fsync(file.fileno())
        content = part.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found == sha256:
            return content
        part.unlink()
    raise _Hopeless(f"{url} gave another file, with sha256 {found}")


def _append_rest(url: str, file: BinaryIO, size: int) -> None:
    """Connect as often as it takes, as long as at least some connections bring something new."""
    have = file.tell()
    fruitless = 0
    late = time.monotonic() + SECONDS_MORE + size / SLOWEST
    with tqdm(
        desc=Path(file.name).stem,
        initial=have,
        total=size,
        unit="B",
        unit_scale=True,
        disable=None,  # silent where standard error is not a terminal
    ) as bar:
        while have < size:
            if fruitless:
                time.sleep(PAUSE * 2 ** (fruitless - 1))
            before = have
            try:
                for piece in _bytes_from(url, have, size):
                    file.write(piece)
                    file.flush()  # to the system at least: a killed process then loses nothing
                    have += len(piece)
                    bar.update(len(piece))
                    if have < size and time.monotonic() > late:
                        raise _Hopeless(f"{url} is too slow: {have:,} of {size:,} bytes have come")
            except ConnectionError:
                if have == before and fruitless == TRIES - 1:
                    raise
            fruitless = 0 if have > before else fruitless + 1


def _bytes_from(url: str, start: int, size: int) -> Iterator[bytes]:
    """What one connection brings of bytes start to size; raises ConnectionError if not all."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with _opener().open(request, timeout=TIMEOUT) as response:
            here = _first_byte(response)
            if here > start:
                raise ConnectionError(f"asked for bytes from {start:,}, got them from {here:,}")
            while here < size:
                piece = response.read1(min(PIECE, size - here))
                if not piece:
                    raise ConnectionError(f"the connection ended at byte {here:,} of {size:,}")
                # An answer may begin before `start`: what we have already is passed over.
                yield piece[max(0, start - here) :]
                here += len(piece)
    except urllib.error.HTTPError as error:
        reason = f"{url} answered {error.code} {error.reason}"
        may_pass = error.code >= 500 or error.code in (408, 416, 429)
        raise (ConnectionError if may_pass else _Hopeless)(reason) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


def _opener() -> urllib.request.OpenerDirector:
    """urllib's usual opener without its handlers for file:, ftp: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _first_byte(response: http.client.HTTPResponse) -> int:
    """Where in the file an answer begins: at 0, unless it is a 206 (partial content)."""
    if response.status != 206:
        return 0
    place = response.headers.get("Content-Range", "")  # bytes 1000-1999/2000
    found = re.match(r"bytes (\d+)-", place)
    if not found:
        raise ConnectionError(f"a partial answer does not say which part: {place!r}")
    return int(found[1])


class _Hopeless(Exception):
    """The server was heard, and asking again will not help."""
