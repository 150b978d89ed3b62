"""What bytes are that should be UTF-8 text and are not: said by their looks, with what to do.

It is for a message that a person reads.  Nothing is decoded by such a guess: a wrong one would be
learnt.
"""

import re

LOOKED_AT = 1 << 16  # bytes
LFS = b"version https://git-lfs.github.com/spec/"

SIGNATURES = (
    (b"\x1f\x8b", "it is a gzip file: give it a name that ends with .gz"),
    (b"BZh", "it is a bzip2 file: give it a name that ends with .bz2"),
    (b"\xfd7zXZ\0", "it is an xz file: give it a name that ends with .xz"),
    (b"\x28\xb5\x2f\xfd", "it is a Zstandard file: give it a name that ends with .zst"),
    (b"PAR1", "it is a parquet file: give it a name that ends with .parquet"),
    (b"PK\x03\x04", "it is a zip archive (as are .docx, .odt and .epub): save its text as UTF-8"),
    (b"%PDF", "it is a PDF: save its text as UTF-8, for example with pdftotext"),
    (b"\x89PNG", "it is a picture"),
    (b"\xff\xd8\xff", "it is a picture"),
    (b"\x93NUMPY", "it is a numpy file; token ids in one are read by read_ids"),
    (b"\x7fELF", "it is a program"),
    (b"SQLite format 3\0", "it is a database"),
    (b"\xff\xfe\0\0", "it is UTF-32: iconv -f utf-32 -t utf-8"),
    (b"\0\0\xfe\xff", "it is UTF-32: iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "it is UTF-16: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "it is UTF-16: iconv -f utf-16 -t utf-8"),
)
# Of east Asian texts; several may fit, and only a reader can tell which gives words.
ENCODINGS = ("shift_jis", "gb18030", "big5", "euc_kr", "euc_jp")


def what_bytes_are(data: bytes, start: bytes = b"") -> str:
    """Say what bytes seem to be, and what turns them into UTF-8.

    data   from somewhere in a file
    start  the first bytes of the file, if data is from further on

    >>> what_bytes_are("to be".encode("utf-16"))
    'it is UTF-16: iconv -f utf-16 -t utf-8'
    """
    for signature, what in SIGNATURES:
        if (start or data).startswith(signature):
            return what
    data = data[:LOOKED_AT]
    return _without_mark(data) or _nearly_utf_8(data) or _of_one_byte_or_two(data)


def is_lfs_pointer(data: bytes) -> bool:
    """Whether this is what Git puts in the place of a large file that was not fetched."""
    return data.startswith(LFS) and len(data) < 1024


def _without_mark(data: bytes) -> str:
    """UTF-16 of mostly Latin text has a zero in every other byte."""
    zeros = [data[k::2].count(0) * 2 > 0.6 * len(data) for k in range(2)]
    if zeros[0] != zeros[1]:
        name = "utf-16be" if zeros[0] else "utf-16le"
        return f"it seems to be UTF-16: iconv -f {name} -t utf-8"
    if data.count(0) > 1:
        return "it has bytes of zero, as texts rarely do: it seems to be no text"
    return ""


def _nearly_utf_8(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return "it ends within a character: it may have been cut off"
    wrong = data.decode("utf-8", "replace").count("\ufffd")
    characters = len(re.findall(rb"[\xc2-\xf4][\x80-\xbf]+", data))
    if characters > 10 * wrong:
        return (
            "it is UTF-8 but for a few bytes: iconv -c -f utf-8 -t utf-8 leaves these out; look "
            "at them first"
        )
    return ""


def _of_one_byte_or_two(data: bytes) -> str:
    high = len(re.findall(rb"[\x80-\xff]", data))
    alone = len(re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", data))
    fit = [name for name in ENCODINGS if _decodes(data, name)]
    if fit and alone < high / 2:
        others = f" (or {', '.join(fit[1:])})" if fit[1:] else ""
        return (
            f"it may be {fit[0]}{others}: iconv -f {fit[0]} -t utf-8, and see whether that gives "
            "words"
        )
    if alone >= high / 2:
        return (
            "it may be Latin-1 or Windows-1252, if its language is a western one: "
            "iconv -f windows-1252 -t utf-8, and see whether that gives words"
        )
    return "it may be in an encoding of its language, such as windows-1251: iconv -f NAME -t utf-8"


def _decodes(data: bytes, encoding: str) -> bool:
    """Whether bytes, perhaps cut off at their end, are text in an encoding."""
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start > max(0, len(data) - 4) and error.start > 0
    return True
