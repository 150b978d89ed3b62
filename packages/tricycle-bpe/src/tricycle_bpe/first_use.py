"""Are the kernels right on this machine? Tried once, when they are loaded first.

Compilers make mistakes, for one kind of processor and not for others (linking.py tells of one). So
before a text is split, encoded or learned from on a processor for the first time, a short one is,
and compared with what `merges.py` and the regular expression make of it. Where they differ there
is an error that says so, and no tokeniser that is quietly wrong.

That it was right is kept beside the kernels, in a file named after the processor, so that no other
process does it again. A process that has just compiled kernels does not write it: it runs other
machine code than those that will load them. Only what is about to be used is tried, and nothing
is compiled for it that would not be compiled anyway.
"""

import contextlib
import hashlib
from collections.abc import Callable

import numpy as np

from . import merges
from .splitting import PATTERNS, compile_pattern, kernel_for, splitter

TEXT = "It's 2024: the naïve Ångström of\tthe HTTPServer…\r\n\n  don't DON'T 日本語 мир 👩‍🚀  x**2 "
WORDS = [
    b"low",
    b"low",
    b"lower",
    b"lowest",
    b"newer",
    b"newest",
    b"wider",
    b"aaaaaaa",
    b"low" * 30,
]
N_MERGES = 20

_tried: set[str] = set()  # in this process


def splitting(pattern: str) -> None:
    """Try the kernel that splits by a pattern, if it has one. RuntimeError if it is wrong."""
    kernel = kernel_for(pattern)
    if kernel is not None:
        of_kernel = " ".join([kernel.name, *map(str, kernel.switches)])
        name = pattern if pattern in PATTERNS else of_kernel
        _once(f"splitting by {name}", lambda: _splits(pattern))


def encoding(by_merges: bool) -> None:
    """Try the kernels that encode, by merges or by ranks. RuntimeError if they are wrong."""
    _once(f"encoding by {'merges' if by_merges else 'ranks'}", lambda: _encodes(by_merges))


def training() -> None:
    """Try the kernels that learn merges. RuntimeError if they are wrong."""
    _once("training", _learns)


def _splits(pattern):
    from .encoding import padded

    data = TEXT.encode()
    blocks = splitter(pattern)(padded(data), len(data), np.empty(len(data), np.int64))
    ends = [end for block in blocks for end in block.tolist()]
    found = [data[i:j].decode() for i, j in zip([0, *ends], ends)]
    return found == compile_pattern(pattern).findall(TEXT)


def _encodes(by_merges):
    from .encoding import Encoder

    learned = merges.train(WORDS, N_MERGES)
    spelling = merges.vocabulary(learned)
    rows = [(left, right, merged) for (left, right), merged in learned.items()]
    tokens = [spelling[i] for i in range(len(spelling))]
    encoder = Encoder(tokens, list(spelling), rows if by_merges else None, False)
    ends = np.cumsum([len(word) for word in WORDS], dtype=np.int64)
    found = encoder.encode(b"".join(WORDS), lambda _text, _n, _room: iter([ends]))
    return found.tolist() == [i for word in WORDS for i in merges.encode(word, learned)]


def _learns():
    from .training import train_on_words, words_as_arrays

    learned = merges.train(WORDS, N_MERGES)
    spelling = merges.vocabulary(learned)
    words = words_as_arrays({word: WORDS.count(word) for word in WORDS})
    _, found, _ = train_on_words(*words, 256 + N_MERGES, [], 1, "bytes")
    return found == [(spelling[left], spelling[right]) for left, right in learned]


def _once(what: str, is_right: Callable[[], bool]) -> None:
    """Raise RuntimeError unless it is right, or known to be right on this machine."""
    from .kernels import CACHE_FOLDER, OURS

    if what in _tried:
        return
    name = f"{what.replace(' ', '-')}-{_processor()}.right"
    mark = CACHE_FOLDER / name
    if not mark.exists():
        if not is_right():
            raise RuntimeError(_sentence(what))
        if not any(kernel.stats.cache_misses for kernel in OURS):
            with contextlib.suppress(OSError):  # not to be written to: tried again next time
                mark.touch()
    _tried.add(what)


def _processor():
    """A digest of what machine code depends on: this processor, and what code is made for."""
    from llvmlite import binding
    from numba.core.registry import cpu_target

    made_for = cpu_target.target_context.codegen().magic_tuple()
    features = sorted(name for name, has in binding.get_host_cpu_features().items() if has)
    found = repr((made_for, binding.get_host_cpu_name(), features))
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def _sentence(what):
    from llvmlite import binding
    from numba.core import config

    return (
        f"the tokeniser's kernels are wrong on this machine (processor "
        f"{config.CPU_NAME or binding.get_host_cpu_name()}): a short text for {what} came out "
        "otherwise than in plain Python. The machine code may be damaged: set TRICYCLE_CACHE to an "
        "empty folder, and it is compiled anew. Where that is wrong too, so is the compiler: "
        "NUMBA_CPU_NAME=generic makes slower code that may be right; and please report it"
    )
