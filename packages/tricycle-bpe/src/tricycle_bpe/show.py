"""Looking at tokens: a text with each in a colour of its own, and a report on compression."""

import html
import unicodedata

from .tokeniser import Tokeniser

# Five soft backgrounds, so that neighbours always differ. (xterm's 256 colours, and their values.)
TERMINAL_COLOURS = (152, 223, 189, 151, 217)
PAGE_COLOURS = ("#afd7d7", "#ffd7af", "#d7d7ff", "#afd7af", "#ffafaf")

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.8 monospace; margin: 2em auto; max-width: 60em; padding: 0 1em }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere }}
span {{ border-radius: 3px }}
{colours}
</style>
<p>{summary}</p>
<pre>{tokens}</pre>
"""


def visible_tokens(tokeniser: Tokeniser, text: str) -> list[tuple[int, str]]:
    """Encode a text; return each id with what it stands for, pieces of characters written as <e2
    80>.

    Special tokens that the text spells are taken as such.
    """
    shown = []
    for i in tokeniser.encode(text, allowed_special="all"):
        token = tokeniser.decode_bytes([i])
        try:
            shown.append((i, token.decode()))
        except UnicodeDecodeError:
            shown.append((i, f"<{token.hex(' ')}>"))
    return shown


def summary(text: str, n_tokens: int) -> str:
    """Say in a line how well a text was compressed.

    >>> summary("hello world", 2)
    '11 characters, 11 bytes, 2 tokens: 5.50 bytes per token'
    """
    n_bytes = len(text.encode("utf-8", "replace"))
    per_token = f": {n_bytes / n_tokens:.2f} bytes per token" if n_tokens else ""
    return f"{len(text):,} characters, {n_bytes:,} bytes, {n_tokens:,} tokens{per_token}"


def coloured(tokeniser: Tokeniser, text: str) -> str:
    """Write a text for a terminal, each token on a background of its own."""
    parts = []
    for k, (_, token) in enumerate(visible_tokens(tokeniser, text)):
        colour = f"\x1b[30;48;5;{TERMINAL_COLOURS[k % len(TERMINAL_COLOURS)]}m"
        # A background that continues on the next line would colour the rest of this one.
        parts.append("\n".join(f"{colour}{line}\x1b[0m" for line in token.split("\n")))
    return "".join(parts)


def barred(tokeniser: Tokeniser, text: str) -> str:
    """Write a text for a file or a pipe, a bar between its tokens.

    >>> barred(Tokeniser.characters("abc"), "cab")
    'c|a|b'
    """
    return "|".join(token for _, token in visible_tokens(tokeniser, text))


def page(tokeniser: Tokeniser, text: str) -> str:
    """Write a text as a page of HTML: each token in a colour, its id shown under the pointer."""
    tokens = visible_tokens(tokeniser, text)
    spans = (
        f'<span class="c{k % len(PAGE_COLOURS)}" title="{i}">{html.escape(token)}</span>'
        for k, (i, token) in enumerate(tokens)
    )
    return PAGE.format(
        title=html.escape(repr(tokeniser)),
        colours="\n".join(f".c{k} {{ background: {c} }}" for k, c in enumerate(PAGE_COLOURS)),
        summary=html.escape(summary(text, len(tokens))),
        tokens="".join(spans),
    )


def script_of(character: str) -> str:
    """Name the script of a character by the first word of its Unicode name: LATIN, GREEK, CJK …

    >>> [script_of(character) for character in "aж漢1 "]
    ['LATIN', 'CYRILLIC', 'CJK', 'digits', 'blanks']
    """
    if character.isspace():
        return "blanks"
    if character.isalpha():
        return unicodedata.name(character, "unnamed").split()[0].split("-")[0]
    return "digits" if character.isdigit() else "other"


def bytes_per_token_by_script(tokeniser: Tokeniser, text: str) -> list[tuple[str, int, float]]:
    """Say for each script of a text how many bytes it has, and how many of them a token holds.

    A token counts for the script of its first character that is not blank; the pieces of a
    character that was cut count for its script.

    returns  (script, bytes, bytes per token), the script with most bytes first
    """
    characters = [(script_of(c), len(c.encode("utf-8", "replace"))) for c in text]
    scripts = [script for script, n in characters for _ in range(n)]  # the script of every byte
    n_bytes: dict[str, int] = {}
    n_tokens: dict[str, int] = {}
    begin = 0
    for i in tokeniser.encode_ordinary(text):
        end = begin + len(tokeniser.decode_bytes([i]))
        script = next((s for s in scripts[begin:end] if s != "blanks"), "blanks")
        n_bytes[script] = n_bytes.get(script, 0) + end - begin
        n_tokens[script] = n_tokens.get(script, 0) + 1
        begin = end
    rows = [(script, n, n / n_tokens[script]) for script, n in n_bytes.items()]
    return sorted(rows, key=lambda row: -row[1])
