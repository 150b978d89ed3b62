"""The kinds of GPT there are: GPT-2's and Llama's.

    gpt2    LayerNorm, GELU, learned positions          GPT2LMHeadModel
    llama   RMSNorm, SwiGLU, rotary positions           LlamaForCausalLM
            … with a norm on queries and keys           Qwen3ForCausalLM

In files GPT-2's matrices lie as ours do, under other names.  Llama's are transposed, and queries,
keys and values apart.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd import Tensor
from tricycle_gpt.family import Family, Format, Piece, add_family, setting
from tricycle_nn import LayerNorm, LlamaBlock, Module, RMSNorm, TransformerBlock, gelu

# ---- GPT-2 ----

GPT2_NAMES = {  # ours, theirs; both have a weight (in, out) and a bias
    "attention_norm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.projection": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def _gpt2_block(
    config: Any, *, rng: np.random.Generator, activation: Callable[[Tensor], Tensor] = gelu
) -> Module:
    return TransformerBlock(
        config.embedding_dim,
        config.n_heads,
        hidden=config.mlp_width,
        dropout=config.dropout,
        eps=config.norm_eps,
        activation=activation,
        rng=rng,
    )


def _check_gpt2(config):
    if config.qk_norm or config.key_value_heads != config.n_heads:
        raise ValueError('qk_norm and n_key_value_heads belong to block="llama"')


def _gpt2_pieces(config):
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
    return found


def _gpt2_to_theirs(config):
    return {
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
    }


def _gpt2_to_ours(theirs):
    return {
        "vocab_size": theirs["vocab_size"],
        "context_window": setting(theirs, "n_positions", int, 1024),
        "embedding_dim": theirs["n_embd"],
        "n_layers": theirs["n_layer"],
        "n_heads": theirs["n_head"],
        "hidden_dim": setting(theirs, "n_inner", int, None),
        "dropout": setting(theirs, "resid_pdrop", float, 0.0),
        "tied_head": setting(theirs, "tie_word_embeddings", bool, True),
        "norm_eps": setting(theirs, "layer_norm_epsilon", float, 1e-5),
    }


def _gpt2_refused(theirs):
    activation = theirs.get("activation_function") or "gelu_new"
    by_layer = "scale_attn_by_inverse_layer_idx"
    return {
        "activation_function": activation not in ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": not setting(theirs, "scale_attn_weights", bool, True),
        by_layer: setting(theirs, by_layer, bool, False),
    }


GPT2 = add_family(
    Family(
        name="gpt2",
        make_block=_gpt2_block,
        make_norm=LayerNorm,
        learned_positions=True,
        mlp_width=lambda width: 4 * width,
        check=_check_gpt2,
        formats=(
            Format(
                model_type="gpt2",
                architecture="GPT2LMHeadModel",
                fits=lambda config: True,
                needed=("vocab_size", "n_embd", "n_layer", "n_head"),
                pieces=_gpt2_pieces,
                to_theirs=_gpt2_to_theirs,
                to_ours=_gpt2_to_ours,
                refused=_gpt2_refused,
                prefix="transformer.",
            ),
        ),
    )
)

# ---- Llama ----

LLAMA_NAMES = {  # ours (in, out), theirs (out, in); no biases
    "attention.projection": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def _llama_block(config: Any, *, rng: np.random.Generator) -> Module:
    return LlamaBlock(
        config.embedding_dim,
        config.n_heads,
        n_key_value_heads=config.key_value_heads,
        hidden=config.mlp_width,
        dropout=config.dropout,
        eps=config.norm_eps,
        qk_norm=config.qk_norm,
        theta=config.rotary_theta,
        rng=rng,
    )


def _llama_mlp_width(width):
    """SwiGLU has three matrices where GELU has two; two thirds of the width makes both the same
    size (Shazeer, GLU Variants Improve Transformer, 2020)."""
    return -(-8 * width // 3 // 64) * 64


def _check_llama(config):
    if config.head_size % 2:
        raise ValueError(
            f"rotary positions turn pairs of numbers: embedding_dim / n_heads must be even, "
            f"got {config.head_size}"
        )


def _llama_pieces(config):
    found = {
        "model.embed_tokens.weight": Piece("token_embedding.weight"),
        "model.norm.weight": Piece("norm.weight"),
    }
    for i in range(config.n_layers):
        found |= _llama_layer(config, f"model.layers.{i}.", f"blocks.{i}.")
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


def _llama_to_theirs(config):
    return {
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
    }


def _llama_to_ours(theirs):
    # The newer place is believed: a file that has both was written from it.
    rope = setting(theirs, "rope_parameters", dict, {})
    theta = setting(rope, "rope_theta", float, None)
    return {
        "vocab_size": theirs["vocab_size"],
        "context_window": theirs["max_position_embeddings"],
        "embedding_dim": theirs["hidden_size"],
        "n_layers": theirs["num_hidden_layers"],
        "n_heads": theirs["num_attention_heads"],
        "n_key_value_heads": setting(theirs, "num_key_value_heads", int, None),
        "hidden_dim": theirs["intermediate_size"],
        "rotary_theta": theta or setting(theirs, "rope_theta", float, 10000.0),
        "tied_head": setting(theirs, "tie_word_embeddings", bool, False),
        "norm_eps": setting(theirs, "rms_norm_eps", float, 1e-6),
    }


def _llama_refused(theirs):
    size = theirs["hidden_size"] // max(1, theirs["num_attention_heads"])
    return {
        "attention_bias": setting(theirs, "attention_bias", bool, False),
        "mlp_bias": setting(theirs, "mlp_bias", bool, False),
        "rope_scaling": _is_scaled(setting(theirs, "rope_scaling", dict, {})),
        "rope_parameters": _is_scaled(setting(theirs, "rope_parameters", dict, {})),
        "partial_rotary_factor": setting(theirs, "partial_rotary_factor", float, 1.0) != 1.0,
        "head_dim": setting(theirs, "head_dim", int, size) != size,
        "hidden_act": (theirs.get("hidden_act") or "silu") != "silu",
        "use_sliding_window": setting(theirs, "use_sliding_window", bool, False),
        "layer_types": any(kind != "full_attention" for kind in theirs.get("layer_types") or ()),
    }


def _is_scaled(rope):
    """Whether rotary positions are stretched, in part, or other ones in each kind of layer."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    in_part = setting(rope, "partial_rotary_factor", float, 1.0) != 1.0
    return kind != "default" or in_part or any(isinstance(value, dict) for value in rope.values())


def _llama_format(model_type, architecture, qk_norm):
    return Format(
        model_type=model_type,
        architecture=architecture,
        fits=lambda config: config.qk_norm == qk_norm,
        needed=(
            "vocab_size",
            "max_position_embeddings",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ),
        pieces=_llama_pieces,
        to_theirs=_llama_to_theirs,
        to_ours=lambda theirs: {**_llama_to_ours(theirs), "qk_norm": qk_norm},
        refused=_llama_refused,
    )


LLAMA = add_family(
    Family(
        name="llama",
        make_block=_llama_block,
        make_norm=RMSNorm,
        learned_positions=False,
        mlp_width=_llama_mlp_width,
        check=_check_llama,
        formats=(
            _llama_format("llama", "LlamaForCausalLM", qk_norm=False),
            _llama_format("qwen3", "Qwen3ForCausalLM", qk_norm=True),
        ),
    )
)
