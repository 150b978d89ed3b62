"""Make tricycle_bpe's unicode_16_classes.txt again, by asking tiktoken about every code point.

    python scripts/unicode_classes.py            # says whether the file is up to date
    python scripts/unicode_classes.py --write

tiktoken drops whatever its pattern does not match. So with a class such as \\p{L} for a pattern,
what comes back of a string of all characters is the class. A surrogate is no character: it is
"other".
"""

import sys
from pathlib import Path

import tiktoken

FILE = "packages/tricycle-bpe/src/tricycle_bpe/unicode_16_classes.txt"
PATH = Path(__file__).parents[1] / FILE
HEADING = (
    "# Unicode 16.0 classes: the first code point of a run, and U l x m n b r o "
    "(see unicode_classes.py)"
)
PATTERNS = {
    "U": r"[\p{Lu}\p{Lt}]",
    "l": r"\p{Ll}",
    "x": r"[\p{Lo}\p{Lm}]",
    "m": r"\p{M}",
    "n": r"\p{N}",
    "b": r"[^\S\r\n]",
    "r": r"[\r\n]",
    "o": r"[^\p{L}\p{M}\p{N}\s]",
}


def members(pattern: str, text: str) -> str:
    """Keep the characters of a text that match a pattern."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    probe = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return probe.decode(probe.encode_ordinary(text))


def make_file() -> str:
    characters = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    letters = ["o"] * 0x110000
    for letter, pattern in PATTERNS.items():
        for character in members(pattern, characters):
            letters[ord(character)] = letter
    lines = [HEADING]
    for i, letter in enumerate(letters):
        if i == 0 or letter != letters[i - 1]:
            lines.append(f"{i:04X} {letter}")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = make_file()
    if sys.argv[1:] == ["--write"]:
        PATH.write_text(text, encoding="ascii")
    same = PATH.read_text("ascii") == text
    print(f"tiktoken {tiktoken.__version__}: {FILE} is {'as it says' if same else 'OUT OF DATE'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
