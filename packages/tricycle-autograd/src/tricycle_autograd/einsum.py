"""Einsum: say which axes meet, and what is left.

    einsum("ij,jk->ik", x, y)

Give every axis a letter.  Axes with the same letter walk together, the numbers that meet are
multiplied, and a letter that is not in the output is summed over.  So the line above is

    out[i, k] = sum over j of x[i, j] · y[j, k]

the matrix product.  One notation says it all:

    "ij->ji"               transpose            "i,j->ij"     outer product
    "ij->i"                sum of each row      "ii->"        trace
    "bthd,bshd->bhts"      all attention scores of all heads of a batch

How it is computed.  Looping over every letter at once would be right and hopelessly slow: the
loops of "ij,jk,kl->il" do I·J·K·L multiplications, two matrix products do I·J·K + I·K·L.  So

1. each operand is simplified alone: diagonals are taken where a letter repeats, and letters
   that no other operand needs are summed away;
2. operands are contracted two at a time, in an order that `contraction_order` chooses;
3. each contraction is one (batched) matrix product, after sorting the letters into four groups:

       letter is in        and needed later    not needed any more
       both operands       batch               summed
       the left one        rows                (summed away before)
       the right one       columns             (summed away before)

       left (batch, rows, summed) @ right (batch, summed, columns) = (batch, rows, columns)

   where a group without letters has length 1: "i,j->ij" is a column times a row, and
   "i,i->i" a stack of products of single numbers.

Every step is an operation that has a gradient (transpose, reshape, matmul, ...), so einsum needs
none of its own, and the backward pass reuses what was contracted on the way.

In order: einsum; its three steps; the order of contraction; reading the subscripts.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import combinations
from math import prod
from string import ascii_letters, ascii_lowercase, ascii_uppercase
from typing import Any

from numpy import result_type

from tricycle_autograd.devices import check_same_device
from tricycle_autograd.indexing import diagonal
from tricycle_autograd.matmul import matmul
from tricycle_autograd.reductions import sum as sum_over
from tricycle_autograd.shapes import astype, reshape, transpose
from tricycle_autograd.tensor import Tensor, as_tensor

# An axis is known by its letter.  The axes that "..." stands for have no letters and get numbers,
# counted from the right as broadcasting does: -1 is the last of them.
Label = str | int
Labels = tuple[Label, ...]
Sizes = dict[Label, int]
Step = tuple[frozenset[int], frozenset[int]]

# The best order is found by looking at all of them, 3 to the power of the number of operands.
LOOK_AT_ALL_ORDERS = 6


def einsum(subscripts: Any, *tensors: Any) -> Tensor:
    """Multiply tensors along axes with the same letter; sum over letters not in the output.

    subscripts  a term of letters for each tensor, one letter for each axis: "ij,jk->ik".
                Without "->" the output has the letters that occur once, in alphabetical order.
                "..." stands for any further axes, which broadcast.
    tensors     one for each term; an axis of length 1 stretches to what others with its letter
                have

    >>> einsum("ij,j->i", Tensor([[1, 2], [3, 4]]), Tensor([10, 1]))
    Tensor([12, 34], dtype=int64)

    numpy's other form is understood too: einsum(x, [0, 1], y, [1, 2], [0, 2]), each tensor followed
    by its labels, whole numbers from 0 to 51 and perhaps one `...`, and the output's at the end.

    Raises ValueError if the subscripts cannot be read or do not fit the tensors, TypeError if
    they are not a string.
    """
    if not isinstance(subscripts, str) and tensors and _are_labels(tensors[0]):
        subscripts, tensors = _in_letters(subscripts, *tensors)
    if not isinstance(subscripts, str):
        raise TypeError(
            f"einsum: the first argument is the subscripts, a string such as 'ij,jk->ik', got "
            f"{type(subscripts).__name__}"
        )
    operands = [as_tensor(x) for x in tensors]
    check_same_device("einsum", *operands)
    shapes = tuple([x.shape for x in operands])
    terms, output, sizes = read_subscripts(subscripts, shapes)
    needed, steps = _plan(subscripts, shapes)

    # Operands are known by the tensors that went into them: {0} is the first, {0, 2} is what
    # the first and the third were contracted to.
    waiting = {
        frozenset([i]): simplify(x, terms[i], needed[i], sizes) for i, x in enumerate(operands)
    }
    for left, right in steps:
        pair = *waiting.pop(left), *waiting.pop(right)
        kept = set(output).union(*[labels for _, labels in waiting.values()])
        waiting[left | right] = contract(*pair, kept, sizes)

    ((x, labels),) = waiting.values()
    return _with_dtype(rearrange(x, labels, output), operands)


# ---- The three steps ----


def simplify(x: Tensor, labels: Labels, needed: set[Label], sizes: Sizes) -> tuple[Tensor, Labels]:
    """Do all that can be done with one operand alone; returns it with its remaining labels."""
    # An axis that others would stretch is the same number again and again: without the axis
    # it is the same number for everybody.
    if x.shape != tuple([sizes[label] for label in labels]):
        full = [i for i, label in enumerate(labels) if x.shape[i] == sizes[label]]
        labels = tuple([labels[i] for i in full])
        x = reshape(x, [x.shape[i] for i in full])

    while len(set(labels)) < len(labels):
        repeated = next(label for label in labels if labels.count(label) > 1)
        first = labels.index(repeated)
        second = labels.index(repeated, first + 1)
        x = diagonal(x, 0, first, second)
        labels = (*labels[:first], *labels[first + 1 : second], *labels[second + 1 :], repeated)

    private = tuple([i for i, label in enumerate(labels) if label not in needed])
    if private:
        x = sum_over(x, private)
        labels = tuple([label for label in labels if label in needed])
    return x, labels


def contract(
    x: Tensor, x_labels: Labels, y: Tensor, y_labels: Labels, kept: set[Label], sizes: Sizes
) -> tuple[Tensor, Labels]:
    """Multiply two operands and sum over the labels not in `kept`, as one matrix product.

    Every label of one operand alone must be kept: `simplify` has summed away the others.
    Returns the product with its labels.
    """
    batch = tuple([label for label in x_labels if label in y_labels and label in kept])
    summed = tuple([label for label in x_labels if label in y_labels and label not in kept])
    rows = tuple([label for label in x_labels if label not in y_labels])
    columns = tuple([label for label in y_labels if label not in x_labels])
    n_rows, n_summed, n_columns = (
        prod([sizes[label] for label in group]) for group in (rows, summed, columns)
    )
    stack = [sizes[label] for label in batch]
    x = reshape(rearrange(x, x_labels, batch + rows + summed), [*stack, n_rows, n_summed])
    y = reshape(rearrange(y, y_labels, batch + summed + columns), [*stack, n_summed, n_columns])
    product = matmul(x, y)  # (batch, rows, columns)
    labels = batch + rows + columns
    return reshape(product, [sizes[label] for label in labels]), labels


def rearrange(x: Tensor, labels: Labels, order: Labels) -> Tensor:
    """The axes of x in another order."""
    return x if labels == order else transpose(x, [labels.index(label) for label in order])


def _with_dtype(x, operands):
    """numpy's einsum keeps the operands' dtype where its sum makes small integers wider."""
    dtype = result_type(*[operand.dtype for operand in operands])
    return x if x.dtype == dtype else astype(x, dtype)


# ---- The order of contraction ----


@lru_cache(maxsize=1024)
def _plan(subscripts, shapes):
    """The labels each operand has once it is simplified, and the order of contraction."""
    terms, output, sizes = read_subscripts(subscripts, shapes)
    present = [
        {label for label, n in zip(term, shape) if n == sizes[label]}
        for term, shape in zip(terms, shapes)
    ]
    needed = []
    for i, labels in enumerate(present):
        elsewhere = set(output).union(*present[:i], *present[i + 1 :])
        needed.append(labels & elsewhere)
    return needed, contraction_order(needed, set(output), sizes)


def contraction_order(terms: Sequence[set[Label]], output: set[Label], sizes: Sizes) -> list[Step]:
    """Which operands to contract, two at a time, with few multiplications.

    terms    the labels of each operand
    returns  a list of pairs; each side of a pair is the set of operands that are in it by then

    Contracting two operands costs the product of the lengths of all their labels.  For a few
    operands the cheapest order of all is found; for many, each step takes the pair whose
    product saves most memory.

    >>> sizes = {"i": 1000, "j": 1000, "k": 1000}
    >>> contraction_order([{"i", "j"}, {"j", "k"}, {"k"}], {"i"}, sizes)   # the vector first
    [(frozenset({1}), frozenset({2})), (frozenset({0}), frozenset({1, 2}))]
    """
    everyone = frozenset(range(len(terms)))

    @cache
    def left_of(group):
        """The labels of a group's product: those that the output or others need."""
        inside = set().union(*[terms[i] for i in group])
        return inside & output.union(*[terms[i] for i in everyone - group])

    def size(labels):
        return prod([sizes[label] for label in labels])

    if len(terms) > LOOK_AT_ALL_ORDERS:
        return _greedy_order(everyone, left_of, size)
    return _best_order(everyone, left_of, size)


def _best_order(everyone, left_of, size):
    """The cheapest order: that of a group is the best way to make two parts, and to join them."""
    # For each group, its cost and its steps.
    best: dict[frozenset[int], tuple[int, list[Step]]] = {frozenset([i]): (0, []) for i in everyone}
    for n in range(2, len(everyone) + 1):
        for group in map(frozenset, combinations(sorted(everyone), n)):
            ways = []
            for left in _parts_with_the_first(group):
                right = group - left
                cost = best[left][0] + best[right][0] + size(left_of(left) | left_of(right))
                ways.append((cost, left, right))
            cost, left, right = min(ways, key=lambda way: way[0])
            best[group] = cost, [*best[left][1], *best[right][1], (left, right)]
    return best[everyone][1]


def _parts_with_the_first(group):
    """Every way to cut a group in two, as the part that has its first member."""
    first, *others = sorted(group)
    for n in range(len(others)):
        for some in combinations(others, n):
            yield frozenset([first, *some])


def _greedy_order(everyone, left_of, size):
    """Again and again, the pair whose product is smallest beside what it replaces."""

    def growth(pair):
        left, right = pair
        return size(left_of(left | right)) - size(left_of(left)) - size(left_of(right))

    waiting, steps = [frozenset([i]) for i in sorted(everyone)], []
    while len(waiting) > 1:
        left, right = min(combinations(waiting, 2), key=growth)
        waiting = [group for group in waiting if group not in (left, right)] + [left | right]
        steps.append((left, right))
    return steps


# ---- Reading the subscripts ----


@lru_cache(maxsize=1024)
def read_subscripts(
    subscripts: str, shapes: tuple[tuple[int, ...], ...]
) -> tuple[tuple[Labels, ...], Labels, Sizes]:
    """The labels of each operand's axes, the labels of the output, and the length of each.

    >>> read_subscripts("...i,i", ((2, 5, 3), (3,)))
    (((-2, -1, 'i'), ('i',)), (-2, -1), {-2: 2, -1: 5, 'i': 3})

    Raises ValueError if the subscripts make no sense or do not fit the shapes.
    """
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    given = inputs.split(",")
    if not shapes:
        raise ValueError(f"einsum: {subscripts!r} needs at least one tensor, got none")
    if len(given) != len(shapes):
        raise ValueError(
            f"einsum: {subscripts!r} has terms for {len(given)} tensors, got {len(shapes)}"
        )
    terms = tuple(
        [
            _read_term(term, shape, i, subscripts)
            for i, (term, shape) in enumerate(zip(given, shapes))
        ]
    )
    sizes = _measure(terms, shapes, subscripts)
    dots = tuple(sorted([label for label in sizes if isinstance(label, int)]))

    if not arrow:
        letters = inputs.replace(",", "").replace(".", "")
        once = sorted([letter for letter in set(letters) if letters.count(letter) == 1])
        return terms, (*dots, *once), sizes
    return terms, _read_output(result, dots, sizes, subscripts), sizes


def _read_term(term, shape, i, subscripts):
    before, ellipsis, after = _letters(term, subscripts)
    n_dots = len(shape) - len(before) - len(after)
    if n_dots < 0 or (n_dots and not ellipsis):
        raise ValueError(
            f"einsum: term {term!r} of {subscripts!r} names {len(before) + len(after)} axes, but "
            f"tensor {i} has shape {shape}; '...' in a term stands for any further axes"
        )
    return (*before, *range(-n_dots, 0), *after)


def _read_output(result, dots, sizes, subscripts):
    before, ellipsis, after = _letters(result, subscripts)
    if dots and not ellipsis:
        raise ValueError(
            f"einsum: the terms of {subscripts!r} have axes behind '...', so the output must say "
            "where they go: write '...' in it too"
        )
    for letter in before + after:
        if letter not in sizes:
            raise ValueError(f"einsum: output letter {letter!r} of {subscripts!r} is in no term")
        if (before + after).count(letter) > 1:
            raise ValueError(f"einsum: output letter {letter!r} of {subscripts!r} occurs twice")
    return (*before, *dots, *after)


def _letters(term, subscripts):
    """A term's letters before its "...", the "..." if there is one, and the letters after it."""
    match = re.fullmatch(r"([a-zA-Z]*)(\.\.\.)?([a-zA-Z]*)", term)
    if match is None:
        raise ValueError(
            f"einsum: cannot read {term!r} in {subscripts!r}; a term is letters, with '...' at "
            "most once, and terms look like 'ij,jk->ik'"
        )
    before, ellipsis, after = match.groups()
    return before, ellipsis, after


def _are_labels(value):
    return isinstance(value, (list, tuple)) and all(x is ... or type(x) is int for x in value)


def _in_letters(*operands):
    """Subscripts and tensors of a call in which each tensor is followed by its labels."""
    tensors, labels = operands[0 : len(operands) // 2 * 2 : 2], operands[1::2]
    terms = ",".join([_letters_of(one) for one in labels])
    if len(operands) % 2:
        terms += "->" + _letters_of(operands[-1])
    return terms, tensors


def _letters_of(labels):
    if not _are_labels(labels) or not all(x is ... or 0 <= x < len(ascii_letters) for x in labels):
        raise ValueError(
            f"einsum: labels are lists of whole numbers from 0 to {len(ascii_letters) - 1}, and "
            f"..., got {labels!r}"
        )
    # Uppercase first, as numpy has it: the order decides about an output that is not given.
    letters = ascii_uppercase + ascii_lowercase
    return "".join(["..." if x is ... else letters[x] for x in labels])


def _measure(terms, shapes, subscripts):
    """The length of each label, or an error that names the label and both lengths."""
    sizes: Sizes = {}
    seen_in: dict[Label, int] = {}
    for i, (term, shape) in enumerate(zip(terms, shapes)):
        for label, n in zip(term, shape):
            name = repr(label) if isinstance(label, str) else f"axis {label} of '...'"
            if term.count(label) > 1 and n != shape[term.index(label)]:
                raise ValueError(
                    f"einsum: {name} in {subscripts!r} has length {shape[term.index(label)]} and "
                    f"length {n} in tensor {i}, of shape {shape}"
                )
            known = sizes.get(label, 1)
            if known != n and 1 not in (known, n):
                raise ValueError(
                    f"einsum: {name} in {subscripts!r} has length {known} in tensor "
                    f"{seen_in[label]} and length {n} in tensor {i}"
                )
            if label not in sizes or known == 1:
                sizes[label], seen_in[label] = n, i
    return sizes
