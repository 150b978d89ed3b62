"""What a model is (`GPTConfig`), and how one is trained (`TrainingConfig`).

Both are frozen dataclasses: values that can be compared, printed, written to a file and made
from one.  `PRESETS` holds models of known sizes.  The apps make their command line flags from
these fields, so the text after each is the help a user reads.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from tricycle_gpt import families  # noqa: F401  (makes the families known)
from tricycle_gpt.family import Family, family_named
from tricycle_nn import CosineSchedule, LinearSchedule, RotaryScaling, WarmupStableDecay

OptimiserName = Literal["adamw", "muon"]  # what each is made of: runs/optimiser.py


@dataclass(frozen=True)
class GPTConfig:
    """The size and kind of a GPT."""

    vocab_size: int = 50257
    """Different tokens the model knows."""
    context_window: int = 1024
    """The most tokens it can look back on."""
    embedding_dim: int = 768
    """Width of the vector that stands for a token."""
    n_layers: int = 12
    """Transformer blocks, one after the other."""
    n_heads: int = 12
    """Attention heads in each block."""
    block: str = "gpt2"
    """gpt2: LayerNorm, GELU, learned positions; llama: RMSNorm, SwiGLU, rotary positions; olmo2:
    llama's parts with the norms behind them."""
    n_key_value_heads: int | None = None
    """Heads of keys and values, shared by groups of n_heads; as many if not given (llama)."""
    hidden_dim: int | None = None
    """Width inside the MLPs; if not given, 4 (gpt2) or about 8/3 (llama) x embedding_dim."""
    qk_norm: bool = False
    """Normalise queries and keys before they meet (llama blocks)."""
    rotary_theta: float = 10000.0
    """Base of the rotary positions' wavelengths (llama blocks)."""
    dropout: float = 0.0
    """Share of the numbers on each residual branch set to zero while training."""
    tied_head: bool = True
    """Read the next token with the same table that embeds tokens."""
    norm_eps: float = 1e-5
    """Keeps normalisation's division finite."""
    head_dim: int | None = None
    """Numbers in one head's query; embedding_dim / n_heads if not given (llama blocks)."""
    query_key_value_bias: bool = False
    """Add biases to queries, keys and values (llama and olmo2; gpt2 blocks always do)."""
    projection_bias: bool = False
    """Add a bias to what the heads have found (llama and olmo2)."""
    mlp_bias: bool = False
    """Add biases inside the MLPs (llama)."""
    sliding_window: int | None = None
    """Tokens that each sees in a block, itself and those before it; all if not given (llama)."""
    rotary_factor: float = 1.0
    """How many times slower rotary positions turn, to read further than a model was trained."""
    rotary_trained_window: int | None = None
    """Slow only those that turn seldom within so many tokens (Llama 3.1); all if not given."""
    rotary_low_turns: float = 1.0
    """Turns within rotary_trained_window up to which positions are slowed wholly."""
    rotary_high_turns: float = 4.0
    """Turns from which on they are not slowed at all."""

    def __post_init__(self):
        """Raise ValueError for sizes that do not fit together."""
        for name in ("vocab_size", "context_window", "embedding_dim", "n_layers", "n_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        family = family_named(self.block)
        for name in ("hidden_dim", "head_dim", "sliding_window"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.head_dim is None and self.embedding_dim % self.n_heads:
            raise ValueError(
                f"embedding_dim must be a multiple of n_heads, got {self.embedding_dim} and "
                f"{self.n_heads}"
            )
        if self.key_value_heads < 1 or self.n_heads % self.key_value_heads:
            raise ValueError(
                f"n_heads must be a multiple of n_key_value_heads, got {self.n_heads} and "
                f"{self.n_key_value_heads}"
            )
        for name in ("norm_eps", "rotary_theta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        family.check(self)

    @property
    def family(self) -> Family:
        """What models with such blocks are made of, and what they are called in files."""
        return family_named(self.block)

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values: n_heads where nothing else is asked for."""
        return self.n_heads if self.n_key_value_heads is None else self.n_key_value_heads

    @property
    def head_size(self) -> int:
        """Numbers in one head's query."""
        return self.embedding_dim // self.n_heads if self.head_dim is None else self.head_dim

    @property
    def rotary_scaling(self) -> RotaryScaling | None:
        """How much slower rotary positions turn; None where they turn as they are."""
        if self.rotary_factor == 1 and self.rotary_trained_window is None:
            return None
        return RotaryScaling(
            self.rotary_factor,
            self.rotary_trained_window,
            self.rotary_low_turns,
            self.rotary_high_turns,
        )

    @property
    def least_parameters(self) -> int:
        """Numbers in the tables and the blocks' largest matrices: known before any is made."""
        positions = self.context_window if self.family.learned_positions else 0
        blocks = self.n_layers * 2 * (self.n_heads * self.head_size + self.mlp_width)
        return self.embedding_dim * (self.vocab_size + positions + blocks)

    @property
    def mlp_width(self) -> int:
        """Width inside the MLPs: hidden_dim, or what the family makes of the embedding's."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        return self.family.mlp_width(self.embedding_dim)


# The sizes of GPT-2 (Radford et al., 2019); gpt2 has 124,439,808 parameters.
PRESETS: dict[str, GPTConfig] = {
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(embedding_dim=1024, n_layers=24, n_heads=16),
    "gpt2-large": GPTConfig(embedding_dim=1280, n_layers=36, n_heads=20),
    "gpt2-xl": GPTConfig(embedding_dim=1600, n_layers=48, n_heads=25),
    # gpt2's size with what has been learned since; see the README.
    "speedrun": GPTConfig(block="llama", qk_norm=True, tied_head=False),
    "laptop": GPTConfig(
        vocab_size=4096, context_window=256, embedding_dim=256, n_layers=6, n_heads=8
    ),
    # nanoGPT's model for a laptop: characters of tinyshakespeare.
    "characters": GPTConfig(
        vocab_size=65, context_window=64, embedding_dim=128, n_layers=4, n_heads=4
    ),
}


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: a recipe."""

    steps: int = 1000
    """Times the weights are moved."""
    batch_size: int = 16
    """Windows of text looked at together."""
    micro_batches: int = 1
    """Batches whose gradients make one step together: a large batch in little memory."""
    learning_rate: float = 1e-3
    """The highest learning rate."""
    final_learning_rate: float = 1e-4
    """The learning rate of the last step, which therefore learns nothing if this is 0."""
    warmup: int | None = None
    """Steps in which the learning rate rises; if not given, a tenth of all, at most 100.  A run
    that is not longer than that has half its steps for it."""
    schedule: Literal["cosine", "linear", "warmup-stable-decay"] = "cosine"
    """The way down from the highest learning rate to the last."""
    decay: int | None = None
    """Steps of the way down in warmup-stable-decay; if not given, a fifth of all.  At most what
    the warmup leaves."""
    optimiser: OptimiserName = "adamw"
    """What moves the weights; muon: the blocks' matrices by Muon, the rest by AdamW."""
    momentum: float = 0.95
    """Muon: how much of the old sum of gradients each step keeps."""
    weight_decay: float = 0.1
    """How strongly matrices are pulled towards zero."""
    beta1: float = 0.9
    """AdamW: how much of the old mean of gradients each step keeps."""
    beta2: float = 0.99
    """AdamW: the same for the mean of their squares."""
    max_gradient_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    seed: int = 0
    """Every random choice follows from it: weights, order of the data, dropout."""
    log_every: int = 10
    """Steps between two printed lines, where there is no terminal for a progress bar."""
    evaluate_every: int = 250
    """Steps between two looks at the validation text; 0 for none but the last."""
    evaluation_windows: int = 64
    """Windows of validation text in each look but the last, which takes all; 0 for all."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; 0 for none but the last."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are removed."""
    keep_best: bool = False
    """Keep the checkpoint with the lowest validation loss too, of those at steps with a look."""
    patience: int | None = None
    """Looks in a row that find no lower validation loss, after which the run ends; never if not
    given.  Such a run keeps its best checkpoint, and ends with the weights that are in it."""
    when_not_finite: Literal["stop", "skip"] = "stop"
    """What to do when loss or gradient is not finite: stop, or skip the step; no weight moves."""
    spikes: Literal["off", "warn", "skip", "stop"] = "off"
    """What to do about a loss far above the last hundred."""
    spike_z: float = 6.0
    """How far is far, in standard deviations of those losses."""
    hang_seconds: float = 600.0
    """Seconds without a finished batch after which all stacks are printed; 0 for never."""
    recompute: bool = False
    """Make each block's results again in the backward pass: less memory, a third more time."""
    graphs: bool = True
    """On a GPU: have a batch's launches captured, and started together: the same numbers, sooner
    where batches are small.  Without it Python makes each one, which is for finding mistakes."""

    def __post_init__(self):
        """Raise ValueError for settings that cannot work."""
        for name in ("steps", "batch_size", "micro_batches", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("evaluate_every", "checkpoint_every", "evaluation_windows", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        for name in ("spike_z", "hang_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name, words in (
            ("when_not_finite", ("stop", "skip")),
            ("spikes", ("off", "warn", "skip", "stop")),
        ):
            if getattr(self, name) not in words:
                wanted = ", ".join(words)
                raise ValueError(f"{name} must be one of {wanted}, got {getattr(self, name)!r}")
        if not self.max_gradient_norm > 0:
            raise ValueError(f"max_gradient_norm must be above 0, got {self.max_gradient_norm}")
        if self.optimiser not in get_args(OptimiserName):
            known = " or ".join(f'"{name}"' for name in get_args(OptimiserName))
            raise ValueError(f"optimiser must be {known}, got {self.optimiser!r}")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate must be at least 0 and at most learning_rate, got "
                f"{self.final_learning_rate} and {self.learning_rate}"
            )
        if self.warmup is not None and self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")
        if self.decay is not None and self.decay < 1:
            raise ValueError(f"decay must be at least 1, got {self.decay}")
        self.make_schedule()

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        if self.warmup is None:
            return min(100, self.steps // 10)
        return self.warmup if self.warmup < self.steps else self.steps // 2

    @property
    def decay_steps(self) -> int:
        """Steps of the way down in the schedule warmup-stable-decay."""
        wanted = max(1, self.steps // 5) if self.decay is None else self.decay
        return min(wanted, self.steps - 1 - self.warmup_steps)

    def share(self, ranks: int) -> tuple[int, int]:
        """What each of some ranks looks at in a step: (windows at once, batches of them).

        Together that is batch_size x micro_batches windows, never more than batch_size at once.
        Raises ValueError where the windows cannot be shared out evenly.
        """
        windows, left = divmod(self.batch_size * self.micro_batches, ranks)
        if left:
            raise ValueError(
                f"a step looks at {self.batch_size} x {self.micro_batches} windows, which {ranks} "
                "ranks cannot share evenly: choose batch_size and micro_batches whose product is "
                f"a multiple of {ranks}"
            )
        at_once = next(n for n in range(self.batch_size, 0, -1) if windows % n == 0)
        return at_once, windows // at_once

    def tokens(self, context_window: int) -> int:
        """Tokens looked at in all steps."""
        return self.steps * self.micro_batches * self.batch_size * context_window

    def make_schedule(self) -> CosineSchedule | LinearSchedule | WarmupStableDecay:
        """The learning rate as a function of the step."""
        line = (self.learning_rate, self.final_learning_rate, self.warmup_steps, self.steps)
        if self.schedule == "cosine":
            return CosineSchedule(*line)
        way_down = self.schedule != "warmup-stable-decay" or self.decay_steps
        if self.schedule == "linear" or not way_down:
            return LinearSchedule(*line)
        if self.schedule == "warmup-stable-decay":
            return WarmupStableDecay(*line, decay=self.decay_steps)
        raise ValueError(
            f'schedule must be "cosine", "linear" or "warmup-stable-decay", got {self.schedule!r}'
        )
