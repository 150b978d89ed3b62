"""A printable character for every byte, as GPT-2's files write tokens.

A token is a string of bytes, and bytes such as a blank or a newline are awkward in a text file. So
GPT-2 gave each of the 256 bytes a character that can be seen: itself where it is printable in
Latin-1, else the next free one from U+0100 on. A blank is written Ġ, a newline Ċ. Hugging Face's
tokenizer.json and GPT-2's vocab.bpe both use this, and Hugging Face numbers the bytes by it.
"""

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
UNPRINTABLE = [byte for byte in range(256) if byte not in PRINTABLE]

CHARACTER_OF = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(0x100 + i) for i, byte in enumerate(UNPRINTABLE)
}
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}


def in_character_order() -> list[tuple[int, str]]:
    """List (byte, its character), sorted by character: the order of GPT-2's first 256 ids."""
    return sorted(CHARACTER_OF.items(), key=lambda item: item[1])


def to_characters(token: bytes) -> str:
    """Write a token in visible characters.

    >>> to_characters(b" the")
    'Ġthe'
    """
    return "".join(CHARACTER_OF[byte] for byte in token)


def from_characters(text: str) -> bytes | None:
    """Read back what `to_characters` wrote; None if a character stands for no byte.

    >>> from_characters("Ġthe")
    b' the'
    """
    try:
        return bytes(BYTE_OF[character] for character in text)
    except KeyError:
        return None
