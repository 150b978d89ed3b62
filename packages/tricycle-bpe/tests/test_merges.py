"""The lesson: every number here can be checked with pencil and paper."""

from hypothesis import given
from hypothesis import strategies as st

from tricycle_bpe import merges


def test_the_most_frequent_neighbours_are_joined_first():
    # low low lower: l-o and o-w occur three times each; (l, o) = (108, 111) is the smaller pair.
    assert merges.train([b"low", b"low", b"lower"], 1) == {(108, 111): 256}


def test_a_merge_can_build_on_an_earlier_one():
    learned = merges.train([b"low", b"low", b"lower"], 3)
    assert [merges.vocabulary(learned)[i] for i in (256, 257, 258)] == [b"lo", b"low", b"er"]
    assert merges.encode(b"lower", learned) == [257, 258]
    assert merges.decode([257, 258], learned) == b"lower"


def test_the_example_of_the_encyclopedia():
    # aaabdaaabac -> ZabdZabac -> ZYdZYac -> XdXac, with Z = aa, Y = ab, X = ZY
    learned = merges.train([b"aaabdaaabac"], 3)
    assert merges.encode(b"aaabdaaabac", learned) == [258, ord("d"), 258, ord("a"), ord("c")]


def test_a_pair_is_counted_once_for_each_time_its_word_occurs():
    assert merges.count_pairs({(1, 2, 3): 5, (1, 2): 1}) == {(1, 2): 6, (2, 3): 5}


def test_merging_goes_from_left_to_right():
    assert merges.merge([7, 7, 7], (7, 7), 8) == [8, 7]


def test_training_stops_when_nothing_is_left_to_join():
    assert len(merges.train([b"ab"], 10)) == 1


def test_an_empty_text_has_no_ids():
    assert merges.encode(b"", {}) == []
    assert merges.train([], 5) == {}


@given(st.lists(st.binary(max_size=12)), st.binary(max_size=40))
def test_decoding_gives_back_any_bytes(corpus, piece):
    learned = merges.train(corpus, 20)
    assert merges.decode(merges.encode(piece, learned), learned) == piece
