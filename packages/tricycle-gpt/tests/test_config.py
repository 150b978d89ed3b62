"""Configs refuse what cannot work, before any work is done."""

import pytest

from tricycle_gpt import PRESETS, GPTConfig, TrainingConfig


def test_gpt2s_mlps_are_four_times_as_wide():
    assert GPTConfig(embedding_dim=768).mlp_width == 3072


def test_swiglus_three_matrices_are_as_large_as_gelus_two():
    # 8/3 of 768 is 2048: 3 · 768 · 2048 = 2 · 768 · 3072
    assert GPTConfig(embedding_dim=768, block="llama").mlp_width == 2048


def test_the_speedruns_model_is_as_large_as_gpt2():
    model, gpt2 = PRESETS["speedrun"], PRESETS["gpt2"]
    assert model.qk_norm
    C, F = model.embedding_dim, model.mlp_width
    assert 12 * gpt2.embedding_dim**2 == 4 * C * C + 3 * C * F  # a block's matrices
    for name in ("vocab_size", "context_window", "n_layers", "n_heads"):
        assert getattr(model, name) == getattr(gpt2, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
        ({"embedding_dim": 100, "n_heads": 12}, "multiple of n_heads, got 100 and 12"),
        ({"block": "mamba"}, "got 'mamba'"),
        ({"block": ["gpt2"]}, r"got \['gpt2'\]"),
        ({"dropout": 1.0}, "below 1, got 1.0"),
        ({"qk_norm": True}, 'belong to block="llama"'),
        ({"block": "llama", "n_key_value_heads": 5}, "multiple of n_key_value_heads, got 12 and 5"),
        ({"block": "llama", "embedding_dim": 36}, "must be even, got 3"),
        ({"head_dim": 4}, 'blocks of the kind "gpt2" have no head_dim'),
        ({"block": "llama", "head_dim": 0}, "head_dim must be at least 1, got 0"),
        ({"block": "llama", "head_dim": 5}, "must be even, got 5"),
        ({"block": "llama", "sliding_window": 0}, "sliding_window must be at least 1, got 0"),
        ({"block": "llama", "rotary_factor": 0.0}, "RotaryScaling expected a factor"),
        ({"block": "olmo2", "qk_norm": True}, 'blocks of the kind "olmo2" have no qk_norm'),
        ({"block": "olmo2", "projection_bias": True}, "go together in olmo2 blocks"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"norm_eps": 0.0}, "norm_eps must be above 0, got 0.0"),
        ({"rotary_theta": -1.0}, "rotary_theta must be above 0, got -1.0"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"warmup": -1}, "warmup must not be negative, got -1"),
        ({"decay": 0}, "decay must be at least 1, got 0"),
        ({"final_learning_rate": 1.0}, "at most learning_rate, got 1.0 and 0.001"),
        ({"schedule": "zigzag"}, "got 'zigzag'"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0, got 0.0"),
        ({"evaluate_every": -5}, "evaluate_every must not be negative, got -5"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**changes)


@pytest.mark.parametrize("steps", [1, 2, 3, 30, 1000, 50_000])
def test_any_number_of_steps_has_a_warmup_that_fits(steps):
    assert TrainingConfig(steps=steps).warmup_steps == min(100, steps // 10)


def test_every_schedule_ends_at_the_final_learning_rate():
    for name in ("cosine", "linear", "warmup-stable-decay"):
        schedule = TrainingConfig(steps=500, warmup=10, schedule=name, decay=100).make_schedule()
        assert schedule(10) == 1e-3
        assert schedule(499) == 1e-4


@pytest.mark.parametrize("schedule", ["cosine", "linear", "warmup-stable-decay"])
@pytest.mark.parametrize("steps", [1, 2, 20, 150, 151])
def test_a_recipes_warmup_and_decay_are_cut_to_fit_a_shorter_run(schedule, steps):
    config = TrainingConfig(steps=steps, warmup=150, decay=900, schedule=schedule)
    assert config.warmup_steps == (150 if steps > 150 else steps // 2)
    rates = [config.make_schedule()(step) for step in range(steps)]
    assert max(rates) == config.learning_rate
    assert min(rates) > 0


def test_a_run_of_one_step_learns_and_the_last_of_several_at_rate_0_does_not():
    one = TrainingConfig(steps=1, final_learning_rate=0.0).make_schedule()
    assert one(0) == TrainingConfig().learning_rate
    several = TrainingConfig(steps=5, final_learning_rate=0.0).make_schedule()
    assert several(4) == 0
