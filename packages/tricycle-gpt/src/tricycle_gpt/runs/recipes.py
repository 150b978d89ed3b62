"""Recipes that are known to work, by the names of the models they are for (`PRESETS`)."""

from collections.abc import Collection
from dataclasses import replace

from tricycle_gpt.config import TrainingConfig

LAPTOP = TrainingConfig(steps=2000, learning_rate=2e-3, batch_size=8)

# The original's: half a million tokens a step, by accumulation; 20 tokens a parameter of gpt2's.
GPT2 = TrainingConfig(
    steps=4_747,
    batch_size=4,
    micro_batches=128,
    learning_rate=6e-4,
    final_learning_rate=0.0,
    warmup=150,
    beta2=0.95,
    checkpoint_every=100,
    log_every=1,
)

# What has been learned since, in 0.55 of the tokens: see the README.
SPEEDRUN = replace(
    GPT2,
    steps=2_611,
    learning_rate=3.6e-3,
    warmup=130,
    schedule="warmup-stable-decay",
    decay=1_305,
    optimiser="muon",
    weight_decay=0.0,
)

# For weights that have learned already: small steps, and none that makes them worse.
FINE_TUNING = TrainingConfig(
    batch_size=4,
    learning_rate=5e-5,
    final_learning_rate=5e-6,
    weight_decay=0.01,
    evaluation_windows=16,  # such models are large, and windows long
    patience=3,
)

RECIPES: dict[str, TrainingConfig] = {
    "laptop": LAPTOP,
    "gpt2": GPT2,
    "gpt2-medium": GPT2,
    "gpt2-large": GPT2,
    "gpt2-xl": GPT2,
    "speedrun": SPEEDRUN,
}


def for_one_epoch(
    recipe: TrainingConfig, named: Collection[str], tokens: int | None, window: int
) -> TrainingConfig:
    """A recipe whose steps see a text once, and look eight times at the validation text.

    named   settings that were chosen, as "training.steps": they stay as they are
    tokens  in the text; None, and the recipe's own steps stay, if that is not known
    window  tokens in a window
    """
    each = recipe.batch_size * recipe.micro_batches * window
    steps = recipe.steps
    if tokens is not None and "training.steps" not in named:
        steps = max(1, tokens // each)
    eighth = max(1, steps // 8)
    found = {"steps": steps, "evaluate_every": eighth, "checkpoint_every": eighth}
    found["log_every"] = max(1, steps // 50)
    free = {name: value for name, value in found.items() if f"training.{name}" not in named}
    return replace(recipe, **free)  # type: ignore[arg-type]
