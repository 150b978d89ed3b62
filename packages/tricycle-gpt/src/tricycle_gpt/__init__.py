"""A GPT to read, train and sample."""

from tricycle_gpt.answers import Answers, Conversations
from tricycle_gpt.benchmarks import HellaSwag, Lambada, WikiText, hellaswag, lambada, wikitext
from tricycle_gpt.chat import Template
from tricycle_gpt.config import PRESETS, GPTConfig, TrainingConfig
from tricycle_gpt.evaluation import Evaluation, evaluate
from tricycle_gpt.family import FAMILIES, Family, Format, Piece, add_family
from tricycle_gpt.generation import generate
from tricycle_gpt.gguf import from_gguf, to_gguf
from tricycle_gpt.gguf_file import GGUFError, GGUFFile, read_gguf
from tricycle_gpt.huggingface import from_huggingface, to_huggingface
from tricycle_gpt.initialise import initialise_like_gpt2
from tricycle_gpt.kv_cache import KVCache
from tricycle_gpt.llama2c import from_llama2c
from tricycle_gpt.model import GPT
from tricycle_gpt.quantised import QuantisedGPT, quantise
from tricycle_gpt.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_newest_checkpoint,
    save_checkpoint,
)
from tricycle_gpt.runs.command_line import (
    as_flags,
    end_politely,
    flag,
    from_toml,
    read_command_line,
    read_command_line_of_run,
    read_config,
    say,
    to_toml,
    with_named,
)
from tricycle_gpt.runs.distributed import Communicator, communicate, texts_of_all
from tricycle_gpt.runs.flops import flops_per_token
from tricycle_gpt.runs.metrics import plot_loss, read_metrics
from tricycle_gpt.runs.placing import place, settle
from tricycle_gpt.runs.plan import Plan, compare_with_plan, plan
from tricycle_gpt.runs.progress import duration
from tricycle_gpt.runs.recipes import FINE_TUNING, RECIPES, for_one_epoch
from tricycle_gpt.runs.resuming import make_run_folder
from tricycle_gpt.runs.run_folder import (
    finish_run,
    follow,
    hand_over,
    write_results,
    write_sample,
    write_settings,
)
from tricycle_gpt.runs.run_lock import locked_run
from tricycle_gpt.runs.sizing import choose_settings, choose_size
from tricycle_gpt.runs.tracking import MLflowTracker, can_track, ended_if_it_fails
from tricycle_gpt.runs.training import TrainingResult, train
from tricycle_gpt.sampling import Dials, dials_in
from tricycle_gpt.starting_weights import StartingWeights, find_weights

__all__ = [
    "dials_in",
    "Dials",
    "add_family",
    "Piece",
    "Format",
    "Family",
    "Answers",
    "FAMILIES",
    "FINE_TUNING",
    "GPT",
    "GGUFError",
    "GGUFFile",
    "PRESETS",
    "RECIPES",
    "Checkpoint",
    "CheckpointError",
    "Communicator",
    "Conversations",
    "Evaluation",
    "GPTConfig",
    "HellaSwag",
    "KVCache",
    "Lambada",
    "Plan",
    "QuantisedGPT",
    "StartingWeights",
    "Template",
    "MLflowTracker",
    "TrainingConfig",
    "TrainingResult",
    "WikiText",
    "as_flags",
    "can_track",
    "choose_settings",
    "choose_size",
    "communicate",
    "compare_with_plan",
    "duration",
    "end_politely",
    "ended_if_it_fails",
    "evaluate",
    "find_weights",
    "finish_run",
    "flag",
    "flops_per_token",
    "follow",
    "for_one_epoch",
    "from_gguf",
    "from_huggingface",
    "from_llama2c",
    "from_toml",
    "generate",
    "hand_over",
    "hellaswag",
    "initialise_like_gpt2",
    "lambada",
    "load_checkpoint",
    "load_newest_checkpoint",
    "locked_run",
    "make_run_folder",
    "place",
    "plan",
    "plot_loss",
    "quantise",
    "read_command_line",
    "read_command_line_of_run",
    "read_config",
    "read_gguf",
    "read_metrics",
    "save_checkpoint",
    "say",
    "settle",
    "texts_of_all",
    "to_gguf",
    "to_huggingface",
    "to_toml",
    "train",
    "wikitext",
    "with_named",
    "write_results",
    "write_sample",
    "write_settings",
]
