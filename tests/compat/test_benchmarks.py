"""Likelihoods, and with them the benchmarks, beside those of transformers."""

import numpy as np
import torch

from tricycle_gpt import to_huggingface
from tricycle_gpt.benchmarks import log_likelihoods


def test_likelihoods_of_continuations_are_those_of_transformers(model, as_transformers, tmp_path):
    theirs = as_transformers(to_huggingface(model, tmp_path / "model")).eval()
    rng = np.random.default_rng(1)
    pairs = [
        ([int(i) for i in rng.integers(0, 53, n)], [int(i) for i in rng.integers(0, 53, m)])
        for n, m in [(1, 1), (5, 3), (20, 5), (1, 24), (12, 12)]
    ]
    for (context, continuation), (score, greedy) in zip(
        pairs, log_likelihoods(model, pairs), strict=True
    ):
        ids = torch.tensor([[*context, *continuation]])[:, :-1]
        with torch.no_grad():
            logs = theirs(ids).logits[0, -len(continuation) :].double().log_softmax(-1)
        wanted = logs[torch.arange(len(continuation)), torch.tensor(continuation)].sum().item()
        assert abs(score - wanted) < 1e-4 * len(continuation)
        assert greedy == (logs.argmax(-1).tolist() == continuation)
