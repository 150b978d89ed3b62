"""A GPT to read, train and sample."""

from tricycle_gpt.benchmarks import hellaswag, lambada, wikitext
from tricycle_gpt.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_newest_checkpoint,
    save_checkpoint,
)
from tricycle_gpt.config import PRESETS, GPTConfig, TrainingConfig
from tricycle_gpt.evaluation import Evaluation, evaluate
from tricycle_gpt.generation import generate
from tricycle_gpt.huggingface import from_huggingface, to_huggingface
from tricycle_gpt.initialise import initialise_like_gpt2
from tricycle_gpt.int8 import Int8GPT, quantise
from tricycle_gpt.kv_cache import KVCache
from tricycle_gpt.metrics import plot_loss, read_metrics
from tricycle_gpt.model import GPT
from tricycle_gpt.plan import Plan, plan
from tricycle_gpt.run_folder import write_results, write_sample
from tricycle_gpt.tracking import MLflowTracker, can_track, flops_per_token, measured_peak_flops
from tricycle_gpt.training import TrainingResult, train

__all__ = [
    "GPT",
    "PRESETS",
    "Checkpoint",
    "CheckpointError",
    "Evaluation",
    "GPTConfig",
    "Int8GPT",
    "KVCache",
    "Plan",
    "MLflowTracker",
    "TrainingConfig",
    "TrainingResult",
    "can_track",
    "evaluate",
    "flops_per_token",
    "from_huggingface",
    "generate",
    "hellaswag",
    "initialise_like_gpt2",
    "lambada",
    "load_checkpoint",
    "load_newest_checkpoint",
    "measured_peak_flops",
    "plan",
    "plot_loss",
    "quantise",
    "read_metrics",
    "save_checkpoint",
    "to_huggingface",
    "train",
    "wikitext",
    "write_results",
    "write_sample",
]
