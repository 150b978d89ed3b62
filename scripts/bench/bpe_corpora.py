"""Build the texts on which scripts/bench/bpe.py measures, from packages of Debian and of Python.

    python scripts/bench/bpe_corpora.py FOLDER

english.txt       a dictionary (dict-gcide), 40 MB
multilingual.txt  an administrator's handbook in 26 languages (debian-handbook), 11 MB
code.txt          Python's standard library and whatever is installed beside it, 8 MB

It needs a Debian or Ubuntu with apt-get and dpkg. Nothing here goes into the repository: the
licences of the texts are their own.
"""

import gzip
import html
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

CHARACTERS_A_LANGUAGE = 400_000
BYTES_OF_CODE = 8_000_000


def unpack(package: str, folder: Path) -> Path:
    """Fetch a Debian package and unpack it without installing it."""
    subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
    archive = next(folder.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg", "-x", archive, folder / package], check=True)
    return folder / package


def english(folder: Path) -> str:
    dictionary = unpack("dict-gcide", folder) / "usr/share/dictd/gcide.dict.dz"
    return gzip.decompress(dictionary.read_bytes()).decode("utf-8", "replace")


def multilingual(folder: Path) -> str:
    books = unpack("debian-handbook", folder) / "usr/share/doc/debian-handbook/html"
    markup = re.compile(r"<script.*?</script>|<[^>]+>", re.DOTALL)
    texts = []
    for language in sorted(books.iterdir()):
        pages = (page.read_text("utf-8", "replace") for page in sorted(language.glob("*.html")))
        text = "\n".join(html.unescape(markup.sub("", page)) for page in pages)
        texts.append(re.sub(r"\s*\n\s*", "\n", text)[:CHARACTERS_A_LANGUAGE])
    return "\n".join(texts)


def code() -> str:
    texts, n = [], 0
    for folder in sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"):
        for path in sorted(Path(folder).rglob("*.py")):
            if n < BYTES_OF_CODE:
                texts.append(path.read_text("utf-8", "replace"))
                n += len(texts[-1])
    return "".join(texts)


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        texts = {"english": english(Path(folder)), "multilingual": multilingual(Path(folder))}
    texts["code"] = code()
    for name, text in texts.items():
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}.txt {len(text.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
