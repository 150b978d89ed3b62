"""The optimisers that a recipe may name."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
from small_runs import settings

from tricycle_gpt import TrainingConfig
from tricycle_gpt.runs.optimiser import OPTIMISERS, least_bytes_per_parameter, make_optimiser


def test_the_table_has_every_name_that_a_recipe_may_have():
    assert tuple(OPTIMISERS) == get_args(get_type_hints(TrainingConfig)["optimiser"])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_parameter_of_a_model_is_moved_by_one_of_the_rules(make_tiny, name):
    model = make_tiny()
    optimiser = make_optimiser(model, settings(optimiser=name))
    held = [p for group in optimiser.groups for p in group.arena.tensors]
    assert len(held) == len(model.parameters())
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_least_that_training_takes_is_no_more_than_it_takes(make_tiny, name):
    model, config = make_tiny(), settings(optimiser=name)
    optimiser = make_optimiser(model, config)
    n = sum(group.arena.values.size for group in optimiser.groups)
    moments = sum(m.nbytes for group in optimiser.groups for m in group.moments.values())
    assert least_bytes_per_parameter(config) <= (4 + 4 + 4) + 2 * moments / n
    assert least_bytes_per_parameter(config) == {"adamw": 28, "muon": 20}[name]


@pytest.mark.parametrize("kind", ["gpt2", "llama, grouped, qk-norm"])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(make_tiny, kind):
    model = make_tiny(kind)
    optimiser = make_optimiser(model, settings(optimiser="muon", learning_rate=2e-2))
    held = [p for group in optimiser.groups for p in group.arena.tensors]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    muon, adamw = optimiser.optimisers
    assert all(p.ndim == 2 for group in muon.groups for p in group.arena.tensors)
    assert model.token_embedding.weight in adamw.groups[0].arena.tensors
    saved = optimiser.state_dict()
    assert "blocks.0.attention.query_key_value.weight.velocity" in saved
    assert "token_embedding.weight.first_moment" in saved

    ids = np.random.default_rng(0).integers(0, 23, (4, 9))
    losses = []
    for _ in range(30):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
