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
from tricycle_gpt.family import Family, Format, Piece, add_family
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
        "context_window": theirs.get("n_positions", 1024),
        "embedding_dim": theirs["n_embd"],
        "n_layers": theirs["n_layer"],
        "n_heads": theirs["n_head"],
        "hidden_dim": theirs.get("n_inner"),
        "dropout": theirs.get("resid_pdrop", 0.0),
        "tied_head": theirs.get("tie_word_embeddings", True),
        "norm_eps": theirs.get("layer_norm_epsilon", 1e-5),
    }


def _gpt2_refused(theirs):
    activation = theirs.get("activation_function", "gelu_new")
    return {
        "activation_function": activation not in ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": not theirs.get("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": theirs.get("scale_attn_by_inverse_layer_idx", False),
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
    rope = theirs.get("rope_parameters") or {}
    return {
        "vocab_size": theirs["vocab_size"],
        "context_window": theirs["max_position_embeddings"],
        "embedding_dim": theirs["hidden_size"],
        "n_layers": theirs["num_hidden_layers"],
        "n_heads": theirs["num_attention_heads"],
        "n_key_value_heads": theirs.get("num_key_value_heads"),
        "hidden_dim": theirs["intermediate_size"],
        "rotary_theta": theirs.get("rope_theta", rope.get("rope_theta", 10000.0)),
        "tied_head": theirs.get("tie_word_embeddings", False),
        "norm_eps": theirs.get("rms_norm_eps", 1e-6),
    }


def _llama_refused(theirs):
    rope = theirs.get("rope_scaling") or theirs.get("rope_parameters") or {}
    size = theirs["hidden_size"] // theirs["num_attention_heads"]
    return {
        "attention_bias": theirs.get("attention_bias", False),
        "mlp_bias": theirs.get("mlp_bias", False),
        "rope_scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
        "head_dim": (theirs.get("head_dim") or size) != size,
        "hidden_act": theirs.get("hidden_act", "silu") != "silu",
        "use_sliding_window": theirs.get("use_sliding_window", False),
    }


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
