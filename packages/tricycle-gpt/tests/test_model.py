"""The model: sizes, causality, and what it knows before training."""

import numpy as np
import pytest

from tricycle_autograd import definitions_only
from tricycle_gpt import GPT, PRESETS, GPTConfig
from tricycle_nn import cross_entropy


def test_gpt2_has_124_439_808_parameters():
    # token table 50257·768, position table 1024·768, 12 blocks of 7,087,872, a norm of 2·768
    assert 50257 * 768 + 1024 * 768 + 12 * 7_087_872 + 2 * 768 == 124_439_808
    model = GPT(PRESETS["gpt2"], rng=np.random.default_rng(0))
    assert model.n_parameters() == 124_439_808

    # An untrained model knows nothing: about ln(50257) = 10.825, a little more for its noise.
    ids = np.random.default_rng(1).integers(0, 50257, (1, 65))
    loss = model.loss(ids[:, :-1], ids[:, 1:]).item()
    assert 10.85 <= loss <= 11.15

    # With nothing to say about any token, exactly ln(50257).
    model.head_weight.array[...] = 0
    assert model.loss(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(np.log(50257), abs=1e-6)


def test_logits_have_one_score_for_each_token(model):
    assert model(np.zeros((3, 5), int)).shape == (3, 5, 23)


def test_loss_is_cross_entropy_of_the_logits(model):
    ids = np.random.default_rng(0).integers(0, 23, (3, 17))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    expected = cross_entropy(model(inputs), targets)
    np.testing.assert_allclose(model.loss(inputs, targets).array, expected.array, rtol=1e-6)


def test_future_tokens_cannot_change_the_past(model):
    ids = np.array([[5, 1, 4, 2]])
    changed = ids.copy()
    changed[0, 3] = 0
    np.testing.assert_array_equal(model(ids).array[:, :3], model(changed).array[:, :3])


def test_a_sequence_does_not_see_the_others_in_its_batch(model):
    ids = np.random.default_rng(0).integers(0, 23, (4, 9))
    np.testing.assert_allclose(model(ids).array[1:2], model(ids[1:2]).array, atol=1e-6)


def test_kernels_and_definitions_are_the_same_model(model):
    ids = np.random.default_rng(0).integers(0, 23, (2, 16))
    gradients = {}
    for name in ("kernels", "definitions"):
        model.zero_grad()
        if name == "kernels":
            loss = model.loss(ids, ids)
            loss.backward()
        else:
            with definitions_only():
                loss = model.loss(ids, ids)
                loss.backward()
        gradients[name] = [loss.array, *(p.grad for p in model.parameters())]
    for fast, defined in zip(*gradients.values(), strict=True):
        largest = np.abs(defined).max()
        np.testing.assert_allclose(fast, defined, rtol=1e-4, atol=1e-5 * largest)


def test_every_parameter_learns(model):
    ids = np.random.default_rng(0).integers(0, 23, (2, 16))
    model.loss(ids, ids).backward()
    for name, parameter in model.named_parameters():
        assert np.abs(parameter.grad).max() > 0, name


@pytest.mark.parametrize("block", ["gpt2", "llama"])
def test_blocks_that_are_computed_again_give_the_same_bits(make_tiny, block):
    ids = np.random.default_rng(0).integers(0, 11, (2, 3, 5))
    results = []
    for again in (False, True):
        model = make_tiny(block=block, dropout=0.3)
        model.recompute = again
        losses = []
        for inputs in ids:  # two passes: the second must drop other numbers than the first
            loss = model.loss(inputs, inputs)
            loss.backward()
            losses.append(loss.item())
        gradients = [parameter.grad.tobytes() for parameter in model.parameters()]
        results.append((losses, gradients))
    assert results[0] == results[1]


def test_a_tied_head_is_listed_once_and_an_untied_one_apart(make_tiny):
    tied, apart = make_tiny("gpt2"), make_tiny("gpt2, head apart")
    assert apart.n_parameters() - tied.n_parameters() == 23 * 16
    assert "head_weight" not in dict(tied.named_parameters())
    assert "head_weight" in dict(apart.named_parameters())


def test_one_seed_gives_one_model(make_tiny):
    first, second, other = make_tiny(seed=3), make_tiny(seed=3), make_tiny(seed=4)
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(array, second.state_dict()[name])
    assert not np.array_equal(
        first.token_embedding.weight.array, other.token_embedding.weight.array
    )


def test_matrices_that_write_to_the_stream_start_smaller():
    config = GPTConfig(50, 8, embedding_dim=64, n_layers=8, n_heads=2)
    model = GPT(config, rng=np.random.default_rng(0))
    # 0.02, and 0.02 / √(2·8) = 0.005
    assert model.blocks[0].mlp.up.weight.array.std() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].mlp.down.weight.array.std() == pytest.approx(0.005, rel=0.05)


def test_names_are_a_file_format(make_tiny):
    assert [name for name, _ in make_tiny(n_layers=1).named_parameters()] == [
        "token_embedding.weight",
        "position_embedding.weight",
        "blocks.0.attention_norm.weight",
        "blocks.0.attention_norm.bias",
        "blocks.0.attention.query_key_value.weight",
        "blocks.0.attention.query_key_value.bias",
        "blocks.0.attention.projection.weight",
        "blocks.0.attention.projection.bias",
        "blocks.0.mlp_norm.weight",
        "blocks.0.mlp_norm.bias",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.up.bias",
        "blocks.0.mlp.down.weight",
        "blocks.0.mlp.down.bias",
        "norm.weight",
        "norm.bias",
    ]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.zeros(5, int), ValueError, r"shape \(batch, time\), got int64 \(5,\)"),
        (np.zeros((1, 5)), ValueError, "integer ids"),
        (np.zeros((1, 17), int), ValueError, "looks at 16 tokens at most, got 17"),
        (np.array([[3, 23]]), IndexError, "23"),
        (np.array([[-1, 2]]), IndexError, "-1"),
    ],
)
def test_ids_that_cannot_be_read_are_refused(make_tiny, ids, error, message):
    with pytest.raises(error, match=message):
        make_tiny()(ids)


def test_targets_must_have_the_shape_of_the_ids(make_tiny):
    with pytest.raises(ValueError, match=r"one shape, got \(2, 5\) and \(2, 4\)"):
        make_tiny().loss(np.zeros((2, 5), int), np.zeros((2, 4), int))
