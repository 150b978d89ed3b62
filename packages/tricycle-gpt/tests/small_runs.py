"""A small run, for tests: text, batches, settings, and what it left."""

import numpy as np

from tricycle_gpt import TrainingConfig, read_metrics, train


class Stream:
    """Batches from a fixed text, with a position: the smallest source there can be."""

    def __init__(self, ids, batch_size, length, position=(0, 0)):
        self.ids, self.batch_size, self.length, self.position = ids, batch_size, length, position

    def __iter__(self):
        while True:
            rng = np.random.default_rng([7, self.position[1]])
            starts = rng.integers(0, len(self.ids) - self.length, self.batch_size)
            self.position = (0, self.position[1] + 1)
            block = np.stack([self.ids[s : s + self.length + 1] for s in starts])
            yield block[:, :-1], block[:, 1:]


def text(n=400):
    return np.tile(np.arange(20), n // 20 + 1)[:n]


def settings(**changes):
    fast = {"steps": 30, "batch_size": 4, "warmup": 3, "learning_rate": 1e-2, "checkpoint_every": 7}
    return TrainingConfig(**{**fast, "evaluate_every": 10, **changes})


def run(folder, model, config=None, **options):
    config = config or settings()
    stream = Stream(text(), config.batch_size, 16)
    return train(model, stream, config, folder, validation=text(100), **options)


def weights_in(folder):
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return [(newest / name).read_bytes() for name in ("parameters.safetensors", "state.json")] + [
        (newest / "optimiser.safetensors").read_bytes()
    ]


def losses_in(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]
