"""Training text and validation text, parted before anything learns from either.

The tokeniser learns too: merges trained on the validation text would make that text shorter, and
the loss on it better, than on any text from outside.  So the cut is made in characters or in whole
documents, first of all.

- One long text (a novel, Shakespeare): its end is kept for validation.  Neighbouring sentences tell
  about each other, so the text is cut once, not shuffled.
- Many documents: a hash of each decides its side.  No list is needed, the order does not matter,
  a document that appears twice falls on one side both times, and adding documents later moves none.
"""

import hashlib
from collections.abc import Iterable

PLACES = 2**64
FEWEST_CHARACTERS = 64  # to check with, where less than a hundredth of a text is kept


def split_text(text: str, validation: float = 0.1, *, at: str = "paragraph") -> tuple[str, str]:
    """Cut a text in two: (training, validation), which joined again are the text.

    validation  the fraction of the characters that goes to validation, between 0 and 1
    at          "paragraph": at the blank line that is nearest to that fraction.  If the nearest one
                would change the smaller side by more than half, at the nearest line end instead,
                else at the nearest space, else right there.
                "character": right there, wherever it falls; with 0.1 this is the split of nanoGPT
    raises      ValueError if a side would be empty
    """
    check_fraction(validation)
    cut = int(len(text) * (1 - validation))
    if at == "paragraph":
        cut = _nearest_boundary(text, cut)
    elif at != "character":
        raise ValueError(f'at must be "paragraph" or "character", got {at!r}')
    if not 0 < cut < len(text):
        raise ValueError(
            f"a text of {len(text):,} characters is too short to keep {validation:g} of it for "
            "validation"
        )
    if len(text) - cut < FEWEST_CHARACTERS and validation < 0.01:
        raise ValueError(
            f"validation={validation:g} of {len(text):,} characters keeps {len(text) - cut}, too "
            f"few to check with: take {min(0.5, FEWEST_CHARACTERS / len(text)):.2g} or more"
        )
    return text[:cut], text[cut:]


def _nearest_boundary(text: str, cut: int) -> int:
    """Where a paragraph, else a line, else a word starts, not too far from the cut."""
    reach = min(cut, len(text) - cut) // 2
    for marks in (("\n\n", "\r\n\r\n"), ("\n",), (" ",)):  # files of Windows end lines by \r\n
        starts = [
            found + len(mark)
            for mark in marks
            for found in (text.rfind(mark, cut - reach, cut), text.find(mark, cut, cut + reach))
            if found >= 0
        ]
        if starts:
            return min(starts, key=lambda start: abs(start - cut))
    return cut


def split_documents(
    documents: Iterable[str], validation: float = 0.1, *, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Deal documents to two lists: (training, validation), each in the order they came.

    Both lists are in memory; for more text than that, ask `is_validation` of each document.

    validation  the chance of each document to go to validation, between 0 and 1
    seed        another seed deals differently
    raises      ValueError if all documents fell on one side, as may happen with a few
    """
    training: list[str] = []
    kept_back: list[str] = []
    for document in documents:
        side = kept_back if is_validation(document, validation, seed=seed) else training
        side.append(document)
    if not training or not kept_back:
        raise ValueError(
            f"{len(training)} documents went to training and {len(kept_back)} to validation: too "
            "few to deal out; join them and use split_text, or try another seed"
        )
    return training, kept_back


def is_validation(document: str, validation: float = 0.1, *, seed: int = 0) -> bool:
    """Whether a document belongs to the validation side: a fixed property of its text.

    A document that goes to validation at some fraction also goes there at any larger one.
    """
    check_fraction(validation)
    return place_of(document, seed) < validation * PLACES


def place_of(document: str, seed: int = 0) -> int:
    """A document's place in a line of 2^64, by a hash of its text: validation is the front."""
    content = document.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little")


def check_fraction(validation: float) -> None:
    """Raise ValueError unless it lies between 0 and 1."""
    if not 0 < validation < 1:
        raise ValueError(f"validation must be a fraction between 0 and 1, got {validation}")
