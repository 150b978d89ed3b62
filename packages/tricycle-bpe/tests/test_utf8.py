"""Whether bytes are UTF-8: as Python's own decoder says, byte for byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_bpe.utf8 import check_utf8, first_invalid_byte


def first_invalid(data: bytes) -> int:
    return first_invalid_byte(np.frombuffer(data, np.uint8))


def expected(data: bytes) -> int:
    """Where Python's decoder stops."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def test_texts_of_one_to_four_bytes_a_character_are_utf8():
    assert first_invalid("a é 漢 😀".encode()) == 13


def test_what_is_cut_off_or_written_too_long_is_not():
    assert first_invalid("é".encode()[:1]) == 0
    assert first_invalid(b"abc" + "😀".encode()[:3]) == 3
    assert first_invalid(b"\xc0\x80") == 0  # zero in two bytes
    assert first_invalid(b"\xed\xa0\x80") == 0  # a surrogate
    assert first_invalid(b"\xf4\x90\x80\x80") == 0  # beyond U+10FFFF


def test_every_two_bytes_are_judged_as_python_does():
    pairs = [bytes([i, j]) for i in range(256) for j in range(256)]
    assert [first_invalid(pair) for pair in pairs] == [expected(pair) for pair in pairs]


LEADS = bytes.fromhex("00 7f 80 bf c1 c2 df e0 e1 ed ef f0 f1 f4 f5 ff")
LATER = bytes.fromhex("7f 80 8f 90 9f a0 bf c0")


def test_every_boundary_of_three_and_four_bytes_is_judged_as_python_does():
    cases = [bytes([a, b, c, d]) for a in LEADS for b in LATER for c in LATER for d in LATER]
    cases += [case[:3] for case in cases[:: len(LATER)]]
    assert [first_invalid(case) for case in cases] == [expected(case) for case in cases]


@given(st.lists(st.one_of(st.binary(max_size=5), st.text(max_size=9).map(str.encode))))
def test_any_bytes_are_judged_as_python_does(parts):
    data = b"".join(parts)
    assert first_invalid(data) == expected(data)


def test_the_error_says_which_file_and_where():
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text: .* position 1"):
        check_utf8(b"a\xff", "a.txt")
