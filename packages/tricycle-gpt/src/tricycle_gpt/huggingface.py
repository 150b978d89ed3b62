"""Model folders in Hugging Face's format, which other programs open too.

    config.json   generation_config.json   model.safetensors   (tokenizer.json)

Inside the library names and layouts are ours; this file alone knows theirs:

    block gpt2             GPT2LMHeadModel     the same matrices under other names
    block llama            LlamaForCausalLM    matrices transposed; queries, keys, values apart
    block llama, qk_norm   Qwen3ForCausalLM    the same, with a norm on queries and keys

One table, `pieces`, says for each of their weights which part of ours it is; writing and
reading both follow it.  Nothing is unpickled: pytorch_model.bin is refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.whole_files import replace_text, replacing, write_arrays

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

GPT2_NAMES = {  # ours, theirs; both have a weight (in, out) and a bias
    "attention_norm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.projection": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
LLAMA_NAMES = {  # ours (in, out), theirs (out, in); no biases
    "attention.projection": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Piece:
    """Where one of their weights is among ours.

    name        our parameter
    columns     the part of its last axis, or None for all of it
    transposed  whether theirs lies the other way round
    """

    name: str
    columns: slice | None = None
    transposed: bool = False

    def of(self, parameters: dict[str, np.ndarray]) -> np.ndarray:
        """A view of the piece, laid out as theirs."""
        array = parameters[self.name]
        if self.columns is not None:
            array = array[:, self.columns]
        return array.T if self.transposed else array


def pieces(config: GPTConfig) -> dict[str, Piece]:
    """Each of their weights, by its name, as a piece of ours."""
    if config.block == "gpt2":
        found = {
            "transformer.wte.weight": Piece("token_embedding.weight"),
            "transformer.wpe.weight": Piece("position_embedding.weight"),
            "transformer.ln_f.weight": Piece("norm.weight"),
            "transformer.ln_f.bias": Piece("norm.bias"),
        }
        for i in range(config.n_layers):
            for ours, theirs in GPT2_NAMES.items():
                for part in ("weight", "bias"):
                    found[f"transformer.h.{i}.{theirs}.{part}"] = Piece(f"blocks.{i}.{ours}.{part}")
    else:
        found = {
            "model.embed_tokens.weight": Piece("token_embedding.weight"),
            "model.norm.weight": Piece("norm.weight"),
        }
        for i in range(config.n_layers):
            found |= _llama_layer(config, f"model.layers.{i}.", f"blocks.{i}.")
    if not config.tied_head:
        found["lm_head.weight"] = Piece("head_weight")
    return found


def _llama_layer(config, theirs, ours):
    found = {
        f"{theirs}input_layernorm.weight": Piece(f"{ours}attention_norm.weight"),
        f"{theirs}post_attention_layernorm.weight": Piece(f"{ours}mlp_norm.weight"),
    }
    queries, keys = config.embedding_dim, config.key_value_heads * config.head_size
    starts = {"q": 0, "k": queries, "v": queries + keys}
    for letter, start in starts.items():
        columns = slice(start, start + (queries if letter == "q" else keys))
        packed = f"{ours}attention.query_key_value.weight"
        found[f"{theirs}self_attn.{letter}_proj.weight"] = Piece(packed, columns, transposed=True)
    for our_name, their_name in LLAMA_NAMES.items():
        piece = Piece(f"{ours}{our_name}.weight", transposed=True)
        found[f"{theirs}{their_name}.weight"] = piece
    if config.qk_norm:
        found[f"{theirs}self_attn.q_norm.weight"] = Piece(f"{ours}attention.query_norm.weight")
        found[f"{theirs}self_attn.k_norm.weight"] = Piece(f"{ours}attention.key_norm.weight")
    return found


def to_huggingface(model: GPT, folder: str | Path, tokeniser: Any = None) -> Path:
    """Write a model folder that `transformers` loads as it is.

    tokeniser  anything whose save(folder) writes a tokenizer.json; it may be left out

    Returns the folder.  Raises OSError if it cannot be written (a full disk).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    weights = {theirs: piece.of(parameters) for theirs, piece in pieces(model.config).items()}
    # A full disk leaves the weights of before.  The metadata tells transformers that matrices lie
    # as PyTorch would have them.
    with replacing(folder / WEIGHTS) as new:
        write_arrays(new, weights, metadata={"format": "pt"})
    _write_json(folder / CONFIG, _their_config(model.config))
    _write_json(folder / "generation_config.json", {"max_length": model.config.context_window})
    if tokeniser is not None:
        tokeniser.save(folder)
    return folder


def from_huggingface(folder: str | Path) -> GPT:
    """Read a model folder: GPT-2, Llama or Qwen3 weights in safetensors.

    Dropout is off in it, as in one that transformers has read; `train` turns it on.

    Raises FileNotFoundError if a file is missing, ValueError for a damaged one, for another kind
    of model or for weights that do not fit their config (every name that is wrong is listed).
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a model folder: it has no {name}. A model folder holds "
                f"{CONFIG} and {WEIGHTS} (weights in other formats are not read)"
            )
    config = _our_config(_read_config(folder / CONFIG), folder)
    weights = _without_extras(_read_weights(folder / WEIGHTS), config)
    model = GPT(config, rng=np.random.default_rng(0))
    parameters = {name: parameter.array for name, parameter in model.named_parameters()}
    expected = pieces(config)
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected)
    misshapen = [
        f"{name} is {weights[name].shape}, expected {piece.of(parameters).shape}"
        for name, piece in expected.items()
        if name in weights and weights[name].shape != piece.of(parameters).shape
    ]
    if missing or unknown or misshapen:
        raise ValueError(
            f"the weights in {folder} do not fit its {CONFIG}: missing {missing or 'nothing'}, "
            f"unknown {unknown or 'nothing'}, misshapen {misshapen or 'nothing'}"
        )
    for name, piece in expected.items():
        piece.of(parameters)[...] = weights[name]
    model.eval()
    return model


def _read_config(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} should hold names and values, got {type(config).__name__}")
    return config


def _read_weights(path):
    """Their weights by name."""
    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if "BF16" in kinds:
            raise ValueError(f"{path} holds bfloat16 weights; save them as float32 to read them")
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    return weights


def _without_extras(weights, config):
    """Their weights by their full names, without what is no weight or is there twice.

    The first GPT-2 files leave out "transformer." and store the causal mask beside the weights.
    """
    if config.block == "gpt2" and "wte.weight" in weights:
        weights = {f"transformer.{name}": array for name, array in weights.items()}
    masks = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    weights = {name: array for name, array in weights.items() if not name.endswith(masks)}
    if config.tied_head:
        weights.pop("lm_head.weight", None)
    return weights


def _their_config(config):
    shared = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if config.block == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_positions": config.context_window,
            "n_embd": config.embedding_dim,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.mlp_width,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.norm_eps,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "attn_pdrop": 0.0,
            **shared,
        }
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        "max_position_embeddings": config.context_window,
        "hidden_size": config.embedding_dim,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_theta,
        "attention_bias": False,
        **shared,
    }


NEEDED = {  # settings without which a config says too little
    "gpt2": ("vocab_size", "n_embd", "n_layer", "n_head"),
    "llama": (
        "vocab_size",
        "max_position_embeddings",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    ),
}
NEEDED["qwen3"] = NEEDED["llama"]


def _our_config(theirs, folder):
    kind = theirs.get("model_type")
    missing = [name for name in NEEDED.get(kind, ()) if name not in theirs]
    if missing:
        raise ValueError(f"{folder / CONFIG} does not say {', '.join(missing)}")
    for name in NEEDED.get(kind, ()):
        if type(theirs[name]) is not int:
            raise ValueError(
                f"{folder / CONFIG}: {name} should be a whole number, got {theirs[name]!r}"
            )
    if kind == "gpt2":
        _refuse_other_gpt2s(theirs, folder)
        return GPTConfig(
            vocab_size=theirs["vocab_size"],
            context_window=theirs.get("n_positions", 1024),
            embedding_dim=theirs["n_embd"],
            n_layers=theirs["n_layer"],
            n_heads=theirs["n_head"],
            hidden_dim=theirs.get("n_inner"),
            dropout=theirs.get("resid_pdrop", 0.0),
            tied_head=theirs.get("tie_word_embeddings", True),
            norm_eps=theirs.get("layer_norm_epsilon", 1e-5),
        )
    if kind in ("llama", "qwen3"):
        _refuse_other_llamas(theirs, folder)
        rope = theirs.get("rope_parameters") or {}
        return GPTConfig(
            vocab_size=theirs["vocab_size"],
            context_window=theirs["max_position_embeddings"],
            embedding_dim=theirs["hidden_size"],
            n_layers=theirs["num_hidden_layers"],
            n_heads=theirs["num_attention_heads"],
            block="llama",
            n_key_value_heads=theirs.get("num_key_value_heads"),
            hidden_dim=theirs["intermediate_size"],
            qk_norm=kind == "qwen3",
            rotary_theta=theirs.get("rope_theta", rope.get("rope_theta", 10000.0)),
            tied_head=theirs.get("tie_word_embeddings", False),
            norm_eps=theirs.get("rms_norm_eps", 1e-6),
        )
    raise ValueError(f"{folder} holds a model of type {kind!r}; gpt2, llama and qwen3 can be read")


def _refuse_other_gpt2s(theirs, folder):
    """Raise ValueError for options of their config that our block does not have."""
    activation = theirs.get("activation_function", "gelu_new")
    refused = {
        "activation_function": activation not in ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": not theirs.get("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": theirs.get("scale_attn_by_inverse_layer_idx", False),
    }
    _refuse(refused, folder)


def _refuse_other_llamas(theirs, folder):
    """Raise ValueError for options of their config that our blocks do not have."""
    rope = theirs.get("rope_scaling") or theirs.get("rope_parameters") or {}
    size = theirs["hidden_size"] // theirs["num_attention_heads"]
    refused = {
        "attention_bias": theirs.get("attention_bias", False),
        "mlp_bias": theirs.get("mlp_bias", False),
        "rope_scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
        "head_dim": (theirs.get("head_dim") or size) != size,
        "hidden_act": theirs.get("hidden_act", "silu") != "silu",
        "use_sliding_window": theirs.get("use_sliding_window", False),
    }
    _refuse(refused, folder)


def _refuse(refused, folder):
    found = [name for name, is_refused in refused.items() if is_refused]
    if found:
        raise ValueError(f"{folder}: our blocks do not have this model's {', '.join(found)}")


def _write_json(path, value):
    replace_text(path, json.dumps(value, indent=2) + "\n")
