"""Training and validation: nothing lost, nothing on both sides, always the same."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_datasets import is_validation, load_shakespeare, split_documents, split_text

LONG = 10 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 1

PARAGRAPHS = "one one one.\n\ntwo two two.\n\nthree three.\n\nfour.\n"  # 48 characters


def test_a_text_of_ten_characters_gives_its_last_one():
    assert split_text("abcdefghij", 0.1, at="character") == ("abcdefghi", "j")


def test_a_text_is_cut_where_a_paragraph_starts():
    # 0.2 of 48 characters: the cut falls at 38, inside "three three."; "four." starts at 42
    training, validation = split_text(PARAGRAPHS, 0.2)
    assert validation == "four.\n"
    assert training + validation == PARAGRAPHS


def test_of_two_paragraphs_the_nearer_one_is_taken():
    # The cut falls at 90; paragraphs start at 88 and at 94.
    text = "a" * 86 + "\n\n" + "b" * 4 + "\n\n" + "c" * 6
    assert split_text(text, 0.1)[1] == "bbbb\n\ncccccc"


def test_lines_that_end_as_windows_has_it_make_paragraphs_too():
    windows = PARAGRAPHS.replace("\n", "\r\n")
    assert split_text(windows, 0.2)[1] == "four.\r\n"


def test_without_a_blank_line_near_a_line_end_will_do():
    text = "a far paragraph\n\n" + "\n".join("a line of verse" for _ in range(60))
    training, validation = split_text(text, 0.1)
    assert training.endswith("verse\n")
    assert validation.startswith("a line")
    assert abs(len(validation) - 0.1 * len(text)) < 16


def test_without_lines_a_space_will_do_and_without_spaces_any_place():
    assert split_text("to be or not to be " * 10, 0.1)[1].startswith(("to", "be", "or", "not"))
    assert split_text("x" * 100, 0.1) == ("x" * 90, "x" * 10)


def test_shakespeare_keeps_about_a_tenth_and_starts_at_a_paragraph():
    text = load_shakespeare()
    training, validation = split_text(text)
    assert training + validation == text
    assert training.endswith("\n\n")
    assert abs(len(validation) / len(text) - 0.1) < 0.001


def test_the_character_split_of_tinyshakespeare_is_nanogpts():
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip("TRICYCLE_TEST_DATA is not set: tinyshakespeare.txt is looked for there")
    text = (Path(os.environ["TRICYCLE_TEST_DATA"]) / "tinyshakespeare.txt").read_text("ascii")
    training, validation = split_text(text, 0.1, at="character")
    assert (len(training), len(validation)) == (1_003_854, 111_540)


prose = st.text(st.sampled_from("ab \n\n"), min_size=2, max_size=200)


@settings(max_examples=300 * LONG, deadline=None)
@given(prose, st.floats(0.01, 0.99), st.sampled_from(["paragraph", "character"]))
def test_the_two_sides_joined_are_the_text(text, fraction, at):
    try:
        training, validation = split_text(text, fraction, at=at)
    except ValueError as error:
        assert "too short" in str(error)
        assert len(text) * min(fraction, 1 - fraction) < 1
        return
    assert training + validation == text
    assert training
    assert validation
    wanted = len(text) - int(len(text) * (1 - fraction))
    smaller_side = min(wanted, len(text) - wanted)
    assert abs(len(validation) - wanted) <= (smaller_side // 2 + 1 if at == "paragraph" else 0)


def test_documents_are_dealt_by_what_they_say():
    documents = [f"document {number}" for number in range(1000)]
    training, validation = split_documents(documents)
    assert sorted(training + validation) == sorted(documents)
    assert 70 < len(validation) < 130  # 100 ± 9.5
    assert split_documents(reversed(documents))[1] == validation[::-1]
    assert validation == [document for document in documents if is_validation(document)]


def test_a_document_that_comes_twice_is_never_on_both_sides():
    training, validation = split_documents([f"{n % 50}" for n in range(500)], 0.5)
    assert not set(training) & set(validation)


def test_a_larger_fraction_only_adds_documents():
    documents = [f"document {number}" for number in range(300)]
    small, large = (split_documents(documents, fraction)[1] for fraction in (0.1, 0.3))
    assert set(small) < set(large)


def test_another_seed_deals_differently():
    documents = [f"document {number}" for number in range(300)]
    assert split_documents(documents)[1] != split_documents(documents, seed=1)[1]


def test_the_side_of_a_document_never_changes():
    # Looked at once: a split that moves between versions would leak validation text.
    assert [n for n in range(40) if is_validation(f"document {n}", 0.2)] == [
        9,
        10,
        16,
        17,
        22,
        28,
        29,
        32,
    ]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_lies_between_nothing_and_everything(fraction):
    wanted = f"validation must be a fraction between 0 and 1, got {fraction}"
    for split in (split_text, is_validation):
        with pytest.raises(ValueError, match=wanted):
            split("some text", fraction)
    with pytest.raises(ValueError, match=wanted):
        split_documents(["a", "b"], fraction)


def test_an_unknown_way_to_cut_is_named():
    with pytest.raises(ValueError, match="at must be .* got 'word'"):
        split_text("some text", at="word")


def test_a_text_too_short_to_split_is_refused():
    with pytest.raises(ValueError, match="a text of 0 characters is too short to keep 0.1 of it"):
        split_text("")
    with pytest.raises(ValueError, match="a text of 3 characters is too short to keep 0.9"):
        split_text("abc", 0.9)


def test_too_few_documents_to_deal_out_are_refused():
    with pytest.raises(ValueError, match="1 documents went to training and 0 to validation"):
        split_documents(["only one"])
    with pytest.raises(ValueError, match="0 documents went to training and 0 to validation"):
        split_documents([])


def test_a_share_of_almost_nothing_is_refused_with_one_that_does():
    text = "a line of verse\n" * 1000
    with pytest.raises(ValueError, match=r"keeps \d+, too few to check with: take 0.004 or more"):
        split_text(text, 1e-9)
    assert len(split_text(text, 0.004)[1]) >= 32
    assert split_text("to be or not", 0.4)[1] == "or not"
