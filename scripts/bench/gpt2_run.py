"""Does a run of train-gpt2 wait for its data?

    hatch run bench gpt2_run.py [texts.jsonl.xz]

Two answers, on one core, from the texts given (or english.jsonl.xz in $TRICYCLE_TEST_DATA):

    preparing   each part of the way from a compressed file to shards on its own, in megabytes of
                text a second of processor time: reading (of which decompression), dealing to
                two sides, encoding and writing
    loading     a run of the laptop preset's size: time in next(batches) over time in steps

What two ranks gain and send is measured by two_ranks.py.

Ends with an error if preparing, without the decompression, takes more than 1/20 second a megabyte,
or loading more than a hundredth of a step.
"""

import json
import lzma
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["TRICYCLE_NUM_THREADS"] = "1"

import numpy as np

from tricycle_bpe import Tokeniser
from tricycle_datasets import Batches, open_prepared, open_source, prepare, read_documents
from tricycle_datasets.splitting import is_validation
from tricycle_gpt import GPT, GPTConfig, TrainingConfig, read_metrics, train

END_OF_TEXT = "<|endoftext|>"
LEAST_SPEED, MOST_SHARE = 20.0, 0.01
STEPS = 30


def seconds(function):
    """Processor time of a call, and what it returned."""
    began = time.process_time()
    found = function()
    return time.process_time() - began, found


def decompress(path):
    """Read a compressed file and forget it."""
    with lzma.open(path) as file:
        while file.read(1 << 20):
            pass


def measure_preparing(path, folder, tokeniser):
    """Print the parts; return megabytes a second without decompression."""
    decompressing = seconds(lambda: decompress(path))[0] if path.suffix == ".xz" else 0.0
    reading, documents = seconds(lambda: list(read_documents(path)))
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    dealing, _ = seconds(lambda: [is_validation(text, 0.05) for text in documents])
    tokeniser.encode_documents(documents[:100], folder / "warm")  # loads the kernels
    encoding, _ = seconds(lambda: tokeniser.encode_documents(documents, folder / "shards"))
    whole, _ = seconds(lambda: prepare(open_source(path), folder / "data", tokeniser))
    print(f"preparing {megabytes:.1f} MB of text in {len(documents)} documents, on one core")
    for name, took in (
        ("decompressing (xz)", decompressing),
        ("reading, decompression not counted", reading - decompressing),
        ("dealing to two sides", dealing),
        ("encoding to shards, on the disk", encoding),
        ("all of it, once", reading + dealing + encoding),
        ("as train-gpt2 does, which reads three times", whole),
    ):
        if took > 0:
            print(f"    {name:45} {took:6.2f} s {megabytes / took:8.0f} MB/s")
    return megabytes / (reading - decompressing + dealing + encoding)


class Timed:
    """Batches that know how long they took."""

    def __init__(self, batches):
        self.batches, self.took = batches, 0.0

    @property
    def position(self):
        return self.batches.position

    def __iter__(self):
        while True:
            began = time.perf_counter()
            batch = next(self.batches)
            self.took += time.perf_counter() - began
            yield batch


def measure_loading(folder, tokeniser):
    """Print and return the share of a step that goes into its batch."""
    data = open_prepared(folder / "data", tokeniser.fingerprint())
    config = GPTConfig(tokeniser.n_vocab, 256, embedding_dim=256, n_layers=6, n_heads=8)
    recipe = TrainingConfig(steps=STEPS, batch_size=8, evaluate_every=0, checkpoint_every=0)
    batches = Timed(Batches(data.train, 8, 256, seed=0))
    train(GPT(config, rng=np.random.default_rng(0)), batches, recipe, folder / "run")
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    stepping = sum(8 * 256 / row["tokens_per_second"] for row in rows)
    share = batches.took / stepping
    print(
        f"loading: {1e3 * batches.took / STEPS:.2f} ms of a step of "
        f"{1e3 * stepping / STEPS:.0f} ms: {100 * share:.3f} percent"
    )
    return share


def main() -> None:
    """Measure, and hold both to their promise."""
    given = sys.argv[1:] or [Path(os.environ["TRICYCLE_TEST_DATA"]) / "english.jsonl.xz"]
    path = Path(given[0])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = open_source(path).beginning(64_000_000)
        learning, tokeniser = seconds(
            lambda: Tokeniser.train(texts, 4096, special_tokens=[END_OF_TEXT])
        )
        print(f"learning 4,096 tokens from the training text: {learning:.1f} s")
        speed = measure_preparing(path, folder, tokeniser)
        share = measure_loading(folder, tokeniser)
    print(json.dumps({"megabytes_per_second": round(speed, 1), "loading_share": round(share, 6)}))
    assert speed >= LEAST_SPEED, f"preparing took more than a second for {LEAST_SPEED} MB"
    assert share <= MOST_SHARE, "a step waits for its data"


if __name__ == "__main__":
    main()
