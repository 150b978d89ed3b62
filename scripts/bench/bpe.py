"""How fast is the tokeniser, beside tiktoken, tokenizers, rustbpe and gigatoken?

    python scripts/bench/bpe_corpora.py FOLDER        # once
    python scripts/bench/bpe.py FOLDER [encode cold prompt threads decode train memory start]

Both sides of every comparison run in this process, turn by turn, and their answers are compared
before anything is timed. A ratio above 1 says how many times faster we are; medians of REPEATS.
Rank files are found through TRICYCLE_TEST_DATA. Peers that are not installed are left out, but for
tiktoken: pip install tiktoken tokenizers rustbpe gigatoken.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tricycle_bpe import Tokeniser
from tricycle_bpe.named import NAMED

REPEATS = 5
VOCABULARIES = ("r50k_base", "cl100k_base", "o200k_base")


def timed(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def race(repeats: int, **contestants: Callable) -> dict[str, float]:
    """Run all contestants in turn, `repeats` times; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, function in contestants.items():
            seconds[name].append(timed(function))
    return {name: float(np.median(times)) for name, times in seconds.items()}


def report(what: str, seconds: dict[str, float], megabytes: float | None = None) -> None:
    """Print a line: what we took, and for each peer what it took and the ratio."""
    ours = seconds.pop("ours")

    def say(time: float) -> str:
        return f"{megabytes / time:.0f} MB/s" if megabytes else f"{time * 1000:.3g} ms"

    peers = ", ".join(f"{name} {say(t)} = {t / ours:.2f}x" for name, t in seconds.items())
    print(f"{what}: ours {say(ours)}; {peers}", flush=True)


def has(peer: str) -> bool:
    return importlib.util.find_spec(peer) is not None


def rank_file(name: str) -> Path:
    return Path(os.environ["TRICYCLE_TEST_DATA"], "vocab", NAMED[name].file)


def ours(name: str) -> Tokeniser:
    _, pattern, special_tokens = NAMED[name]
    return Tokeniser.from_tiktoken(rank_file(name), pattern, special_tokens)


def tiktokens(name: str):
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe
    from tiktoken_ext import openai_public

    openai_public.load_tiktoken_bpe = lambda url, expected_hash: load_tiktoken_bpe(
        str(rank_file(url.rsplit("/", 1)[1].removesuffix(".tiktoken")))
    )
    return tiktoken.Encoding(**getattr(openai_public, name)())


def gigatokens(name: str):
    import gigatoken

    return gigatoken.Tokenizer.from_tiktoken(rank_file(name))


def in_documents(text: str) -> list[str]:
    return [text[i : i + 65_536] for i in range(0, len(text), 65_536)]


# ---- the questions ----


def encode(corpora: dict[str, str]) -> None:
    """Encoding a text that has been encoded before, arrays out, one thread."""
    for name in VOCABULARIES:
        for corpus, whole in corpora.items():
            encode_one(name, corpus, whole[:20_000_000])


def encode_one(name: str, corpus: str, text: str) -> None:
    tokeniser, tiktoken = ours(name), tiktokens(name)
    contestants = {
        "ours": lambda: tokeniser.encode_to_numpy(text, disallowed_special=()),
        "tiktoken": lambda: tiktoken.encode_to_numpy(text, disallowed_special=()),
    }
    if has("gigatoken"):
        giga = gigatokens(name)
        contestants["gigatoken"] = lambda: giga.encode(text)
    first, *others = (contestant() for contestant in contestants.values())
    assert all(np.array_equal(first, other) for other in others)
    report(f"encode {name} {corpus}", race(REPEATS, **contestants), len(text.encode()) / 1e6)


def cold(corpora: dict[str, str]) -> None:
    """Encoding for the first time: nothing remembered, tables loaded."""
    for corpus, whole in corpora.items():
        text = whole[:20_000_000]
        tries = [cold_once(text) for _ in range(REPEATS)]
        medians = {who: float(np.median([seconds[who] for seconds in tries])) for who in tries[0]}
        report(f"cold r50k_base {corpus}", medians, len(text.encode()) / 1e6)


def cold_once(text: str) -> dict[str, float]:
    tokeniser = ours("r50k_base")
    tokeniser.encode("")
    seconds = {"ours": timed(lambda: tokeniser.encode_to_numpy(text))}
    if has("gigatoken"):
        giga = gigatokens("r50k_base")
        seconds["gigatoken"] = timed(lambda: giga.encode(text))
    return seconds


def prompt(corpora: dict[str, str]) -> None:
    """A prompt of one kilobyte, a list of ids out."""
    text = corpora["english"][100_000:101_000]
    tokeniser, tiktoken = ours("r50k_base"), tiktokens("r50k_base")
    assert tokeniser.encode(text) == tiktoken.encode(text)
    contestants = {
        "ours": lambda: tokeniser.encode(text),
        "tiktoken": lambda: tiktoken.encode(text),
    }
    if has("gigatoken"):
        giga = gigatokens("r50k_base")
        contestants["gigatoken"] = lambda: giga.encode(text).tolist()
    report("prompt of 1 KB", race(1000, **contestants))


def threads(corpora: dict[str, str]) -> None:
    """A file of 50 MB to a shard folder, by one and by two threads."""
    tokeniser = ours("r50k_base")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = (corpora["english"] * 2)[:50_000_000]
        (folder / "text.txt").write_text(text, encoding="utf-8")
        os.sync()  # or writing that text to the disk would be timed

        def run(workers: int) -> float:
            seconds = timed(
                lambda: tokeniser.encode_file(folder / "text.txt", folder / "out", workers=workers)
            )
            shutil.rmtree(folder / "out")  # its memory is used again: new memory can be slow
            return seconds

        for workers in (2, 2, 1):  # each thread has pieces to remember
            run(workers)
        pairs = [(run(2), run(1)) for _ in range(2 * REPEATS)]
        two, one = (float(np.median(seconds)) for seconds in zip(*pairs, strict=True))
        report(
            "two threads, 50 MB file", {"ours": two, "one_thread": one}, len(text.encode()) / 1e6
        )


def decode(corpora: dict[str, str]) -> None:
    """Two million ids back to text: lists beside tiktoken, arrays beside gigatoken."""
    text = corpora["english"][:8_000_000]
    tokeniser, tiktoken = ours("r50k_base"), tiktokens("r50k_base")
    array = tokeniser.encode_to_numpy(text)[:2_000_000]
    ids = array.tolist()
    megabytes = len(tokeniser.decode_bytes(ids)) / 1e6
    assert tokeniser.decode(ids) == tiktoken.decode(ids)
    seconds = race(
        REPEATS, ours=lambda: tokeniser.decode(ids), tiktoken=lambda: tiktoken.decode(ids)
    )
    report("decode lists", seconds, megabytes)
    if has("gigatoken"):
        giga = gigatokens("r50k_base")
        assert giga.decode(array) == tokeniser.decode_bytes(array)
        contestants = {
            "ours": lambda: tokeniser.decode_bytes(array),
            "gigatoken": lambda: giga.decode(array),
        }
        report("decode arrays", race(REPEATS, **contestants), megabytes)


def train_by(who: str, documents: list[str], vocab_size: int) -> object:
    """Train with one of the packages; our merges are returned as pairs of byte strings."""
    if who == "ours":
        return Tokeniser.train(documents, vocab_size).merges
    if who == "rustbpe":
        import rustbpe

        return rustbpe.Tokenizer().train_from_iterator(iter(documents), vocab_size)
    if who == "gigatoken":
        import gigatoken

        return gigatoken.train_bpe("".join(documents).encode(), vocab_size, [])
    import tokenizers

    byte_level = tokenizers.pre_tokenizers.ByteLevel
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    peer.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    return peer.train_from_iterator(documents, trainer)


def train(corpora: dict[str, str]) -> None:
    """Training on 25 MB to 8,192 tokens and on 90 MB to 32,768."""
    all_of_it = corpora["english"] + corpora["multilingual"] + corpora["code"]
    train_one(corpora["english"][:25_000_000], 8192, REPEATS)
    train_one((all_of_it * 2)[:90_000_000], 32_768, 1)


def train_one(text: str, vocab_size: int, repeats: int) -> None:
    documents = in_documents(text)
    peers = [peer for peer in ("tokenizers", "rustbpe", "gigatoken") if has(peer)]
    contestants = {who: partial(train_by, who, documents, vocab_size) for who in ["ours", *peers]}
    contestants["ours"]()  # compiles
    megabytes = len(text.encode()) / 1e6
    report(f"train {megabytes:.0f} MB to {vocab_size}", race(repeats, **contestants), megabytes)


def resident_megabytes(which: str) -> float:
    """Read the memory of this process: VmRSS is what it has now, VmHWM the most it had."""
    status = Path("/proc/self/status").read_text()
    return (
        int(next(line for line in status.splitlines() if line.startswith(which)).split()[1]) / 1e3
    )


def megabytes_of_training(who: str, path: str) -> float:
    """Train in this process, and tell how far its memory rose meanwhile (Linux)."""
    train_by(who, ["warm up"], 300)
    documents = in_documents(Path(path).read_text("utf-8"))
    before = resident_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    train_by(who, documents, 8192)
    return resident_megabytes("VmHWM") - before


def memory(corpora: dict[str, str]) -> None:
    """Peak memory of training on 25 MB, beyond the texts and what was imported before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_text(corpora["english"][:25_000_000], encoding="utf-8")
        for who in ("ours", "rustbpe", "gigatoken", "tokenizers"):
            if who == "ours" or has(who):
                code = (
                    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
                    f"import bpe; print(round(bpe.megabytes_of_training({who!r}, {str(path)!r})))"
                )
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
                print(f"memory of training 25 MB: {who} {done.stdout.split()[-1]} MB", flush=True)


def start(corpora: dict[str, str]) -> None:
    """From the start of a process to the first ids, kernels cached."""
    code = (
        "import time; start = time.perf_counter()\n"
        "import tricycle_bpe; imported = time.perf_counter()\n"
        "t = tricycle_bpe.Tokeniser({bytes([b]): b for b in range(256)}, [])\n"
        "t.encode('hello'); done = time.perf_counter()\n"
        "print(f'import {imported - start:.2f} s, first call {done - imported:.2f} s')"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        print("new process:", done.stdout.strip())


QUESTIONS = {f.__name__: f for f in (encode, cold, prompt, threads, decode, train, memory, start)}


def main() -> None:
    folder, *names = sys.argv[1:] or sys.exit(__doc__)
    corpora = {
        name: Path(folder, f"{name}.txt").read_text("utf-8")
        for name in ("english", "multilingual", "code")
    }
    for name in names or QUESTIONS:
        QUESTIONS[name](corpora)


if __name__ == "__main__":
    main()
