"""Looking whether bytes are UTF-8, beside other threads.

`bytes.decode` looks too, but holds Python's lock meanwhile, and makes a str that is not needed.

    0xxxxxxx                                 ASCII
    110xxxxx 10xxxxxx                        from U+0080
    1110xxxx 10xxxxxx 10xxxxxx               from U+0800, without the surrogates D800 to DFFF
    11110xxx 10xxxxxx 10xxxxxx 10xxxxxx      from U+10000 to U+10FFFF

Only the second byte can be wrong in ways of its own: it says whether the character could have been
written shorter, is a surrogate, or lies beyond the last one (RFC 3629).
"""

import numpy as np

from .bytes_at import eight_bytes_at
from .kernels import helper, kernel

HIGH_BITS = np.uint64(0x8080808080808080)


@helper
def is_character(text, i, length):
    """Look whether the `length` bytes from a leading one at `i` on are one character."""
    if i + length > len(text):
        return False
    lead, second = text[i], text[i + 1]
    least, most = 0x80, 0xBF
    if lead == 0xE0:
        least = 0xA0
    elif lead == 0xED:
        most = 0x9F
    elif lead == 0xF0:
        least = 0x90
    elif lead == 0xF4:
        most = 0x8F
    if second < least or second > most:
        return False
    wrong = 0
    for k in range(i + 2, i + length):
        wrong += text[k] & 0xC0 != 0x80
    return wrong == 0


@kernel
def first_invalid_byte(text):
    """Find where bytes (N,) uint8 stop being UTF-8: at the first that begins no character, or N."""
    i, address = 0, text.ctypes.data
    while i < len(text):
        if i + 8 <= len(text) and eight_bytes_at(address, i) & HIGH_BITS == 0:
            i += 8
            continue
        lead = text[i]
        if lead < 0x80:
            length = 1
        elif 0xC2 <= lead <= 0xDF:
            length = 2
        elif 0xE0 <= lead <= 0xEF:
            length = 3
        elif 0xF0 <= lead <= 0xF4:
            length = 4
        else:
            return i
        if length > 1 and not is_character(text, i, length):
            return i
        i += length
    return i


def check_utf8(data: bytes, where: object) -> None:
    """Raise ValueError, saying where, unless these bytes are UTF-8."""
    if first_invalid_byte(np.frombuffer(data, np.uint8)) < len(data):
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8 text: {error}") from error
