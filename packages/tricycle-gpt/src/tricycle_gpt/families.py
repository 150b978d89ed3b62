"""The kinds of GPT there are: GPT-2's, Llama's and OLMo 2's.

    gpt2    LayerNorm, GELU, learned positions          GPT2LMHeadModel
    llama   RMSNorm, SwiGLU, rotary positions           LlamaForCausalLM
            … biases on queries, keys and values        Qwen2ForCausalLM
            … a norm on queries and keys                Qwen3ForCausalLM
            … a window                                  MistralForCausalLM
    olmo2   the norms behind the branches               Olmo2ForCausalLM

In files GPT-2's matrices lie as ours do, under other names.  The others' are transposed, and
queries, keys and values apart.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd import Tensor
from tricycle_gpt.family import Family, Format, Piece, add_family, setting
from tricycle_gpt.rope_settings import rope_faults, rope_to_ours, rope_to_theirs
from tricycle_nn import LayerNorm, LlamaBlock, Module, Olmo2Block, RMSNorm, TransformerBlock, gelu

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


LLAMA_ONLY = (  # settings
    *("head_dim", "query_key_value_bias", "projection_bias", "mlp_bias", "sliding_window"),
    *("rotary_factor", "rotary_trained_window"),
)


def _check_gpt2(config):
    if config.qk_norm or config.key_value_heads != config.n_heads:
        raise ValueError('qk_norm and n_key_value_heads belong to block="llama"')
    _check_defaults(config, LLAMA_ONLY, "gpt2")


def _check_defaults(config, names, block):
    """These settings are not for this kind of block."""
    given = [name for name in names if getattr(config, name) != getattr(type(config), name)]
    if given:
        raise ValueError(f'blocks of the kind "{block}" have no {", ".join(given)}')


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
                used=("n_positions", "n_inner", "resid_pdrop", "layer_norm_epsilon"),
                fixed={
                    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
                    "scale_attn_weights": (True,),
                    "scale_attn_by_inverse_layer_idx": (False,),
                },
                refused=lambda theirs: [],
                token_table="transformer.wte.weight",
                prefix="transformer.",
            ),
        ),
    )
)

# ---- Llama ----

LLAMA_NAMES = {  # ours (in, out), theirs (out, in)
    "attention.projection": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
LLAMA_NORMS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
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
        head_dim=config.head_dim,
        rotary_scaling=config.rotary_scaling,
        window=config.sliding_window,
        bias=config.query_key_value_bias,
        projection_bias=config.projection_bias,
        mlp_bias=config.mlp_bias,
        rng=rng,
    )


def _llama_mlp_width(width):
    """SwiGLU has three matrices where GELU has two; two thirds of the width makes both the same
    size (Shazeer, GLU Variants Improve Transformer, 2020)."""
    return -(-8 * width // 3 // 64) * 64


def _check_llama(config):
    if config.head_size % 2:
        raise ValueError(
            f"rotary positions turn pairs of numbers: head_dim, or embedding_dim / n_heads, must "
            f"be even, got {config.head_size}"
        )
    _ = config.rotary_scaling  # whose numbers may make no sense


def _llama_pieces(config, norms=LLAMA_NORMS):
    found = {
        "model.embed_tokens.weight": Piece("token_embedding.weight"),
        "model.norm.weight": Piece("norm.weight"),
    }
    for i in range(config.n_layers):
        found |= _llama_layer(config, f"model.layers.{i}.", f"blocks.{i}.", norms)
    return found


def _llama_layer(config, theirs, ours, norms):
    found = {f"{theirs}{n}.weight": Piece(f"{ours}{name}.weight") for name, n in norms.items()}
    for name, n in LLAMA_NAMES.items():
        found[f"{theirs}{n}.weight"] = Piece(f"{ours}{name}.weight", transposed=True)
        if config.projection_bias if name == "attention.projection" else config.mlp_bias:
            found[f"{theirs}{n}.bias"] = Piece(f"{ours}{name}.bias")
    widths = [config.n_heads, config.key_value_heads, config.key_value_heads]
    q, k, v = np.cumsum([0, *widths])[:3] * config.head_size
    end = sum(widths) * config.head_size
    for n, part in (("q", slice(q, k)), ("k", slice(k, v)), ("v", slice(v, end))):
        packed, projection = f"{ours}attention.query_key_value", f"{theirs}self_attn.{n}_proj"
        found[f"{projection}.weight"] = Piece(f"{packed}.weight", part, transposed=True)
        if config.query_key_value_bias:
            found[f"{projection}.bias"] = Piece(f"{packed}.bias", part)
    if config.qk_norm or norms is OLMO2_NORMS:
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
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        **rope_to_theirs(config),
    }


def _llama_to_ours(theirs, model_type):
    heads, by_default = theirs["num_attention_heads"], 1e-5 if model_type == "olmo2" else 1e-6
    groups = heads if "num_key_value_heads" in theirs else KEY_VALUE_HEADS.get(model_type, heads)
    return {
        "vocab_size": theirs["vocab_size"],
        "context_window": theirs["max_position_embeddings"],
        "embedding_dim": theirs["hidden_size"],
        "n_layers": theirs["num_hidden_layers"],
        "n_heads": heads,
        "n_key_value_heads": setting(theirs, "num_key_value_heads", int, groups),
        "hidden_dim": theirs["intermediate_size"],
        "tied_head": setting(theirs, "tie_word_embeddings", bool, False),
        "norm_eps": setting(theirs, "rms_norm_eps", float, by_default),
        **rope_to_ours(theirs),
    }


# What transformers takes where a config does not say it.
KEY_VALUE_HEADS = {"qwen2": 32, "qwen3": 32, "mistral": 8}
LLAMA_NEEDED = (
    *("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers"),
    *("num_attention_heads", "intermediate_size"),
)
LLAMA_USED = (
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
)
LLAMA_FIXED = {
    "hidden_act": ("silu",),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1, 1.0),
    "rope_interleaved": (False,),
}


def _llama_format(model_type, architecture, *, fits, to_theirs, to_ours, used, fixed):
    """One of the formats that differ in a few settings from each other."""
    return Format(
        model_type=model_type,
        architecture=architecture,
        fits=fits,
        needed=LLAMA_NEEDED,
        used=LLAMA_USED + used,
        fixed={**LLAMA_FIXED, **fixed},
        pieces=_llama_pieces,
        to_theirs=lambda config: {**_llama_to_theirs(config), **to_theirs(config)},
        to_ours=lambda theirs: {**_llama_to_ours(theirs, model_type), **to_ours(theirs)},
        refused=rope_faults,
    )


def _biases_alike(config):
    return config.query_key_value_bias == config.projection_bias


def _head_dim(theirs, by_default=None):
    """Heads of embedding_dim / n_heads numbers are not given, as in a model of our own."""
    found = setting(theirs, "head_dim", int, by_default)
    square = found is not None and found * theirs["num_attention_heads"] == theirs["hidden_size"]
    return {"head_dim": None if square else found}


def _window(theirs):
    """None where they say null; where they say nothing it is Mistral's first."""
    return setting(theirs, "sliding_window", int, None if "sliding_window" in theirs else 4096)


def _attention_bias(theirs):
    given = setting(theirs, "attention_bias", bool, False)
    return {"query_key_value_bias": given, "projection_bias": given}


NO_WINDOW = {"use_sliding_window": (False,)}  # the other settings of a window then mean nothing
LLAMA_FORMATS = (
    _llama_format(
        "llama",
        "LlamaForCausalLM",
        fits=lambda c: not c.qk_norm and c.sliding_window is None and _biases_alike(c),
        used=("head_dim", "attention_bias", "mlp_bias"),
        fixed=NO_WINDOW,
        to_theirs=lambda c: {
            "head_dim": c.head_size,
            "attention_bias": c.projection_bias,
            "mlp_bias": c.mlp_bias,
        },
        to_ours=lambda theirs: {
            **_head_dim(theirs),
            **_attention_bias(theirs),
            "mlp_bias": setting(theirs, "mlp_bias", bool, False),
        },
    ),
    _llama_format(
        "qwen2",
        "Qwen2ForCausalLM",
        fits=lambda c: (
            not (c.qk_norm or c.projection_bias or c.mlp_bias)
            and c.sliding_window is None
            and c.query_key_value_bias
        ),
        used=("head_dim", "sliding_window", "max_window_layers"),
        fixed=NO_WINDOW,
        to_theirs=lambda c: {"head_dim": c.head_size, "use_sliding_window": False},
        to_ours=lambda theirs: {**_head_dim(theirs), "query_key_value_bias": True},
    ),
    _llama_format(
        "qwen3",
        "Qwen3ForCausalLM",
        fits=lambda c: (
            c.qk_norm and c.sliding_window is None and _biases_alike(c) and not c.mlp_bias
        ),
        used=("head_dim", "attention_bias", "sliding_window", "max_window_layers"),
        fixed=NO_WINDOW,
        to_theirs=lambda c: {
            "head_dim": c.head_size,
            "attention_bias": c.projection_bias,
            "use_sliding_window": False,
        },
        to_ours=lambda theirs: {
            **_head_dim(theirs, by_default=128),
            **_attention_bias(theirs),
            "qk_norm": True,
        },
    ),
    _llama_format(
        "mistral",
        "MistralForCausalLM",
        fits=lambda c: not (c.qk_norm or c.query_key_value_bias or c.projection_bias or c.mlp_bias),
        used=("head_dim", "sliding_window"),
        fixed={"attention_bias": (False,), "mlp_bias": (False,)},
        to_theirs=lambda c: {"head_dim": c.head_size, "sliding_window": c.sliding_window},
        to_ours=lambda theirs: {
            **_head_dim(theirs),
            "sliding_window": _window(theirs),
        },
    ),
)
LLAMA = add_family(
    Family(
        name="llama",
        make_block=_llama_block,
        make_norm=RMSNorm,
        learned_positions=False,
        mlp_width=_llama_mlp_width,
        check=_check_llama,
        formats=LLAMA_FORMATS,
    )
)

# ---- OLMo 2 ----

OLMO2_NORMS = {
    "attention_norm": "post_attention_layernorm",
    "mlp_norm": "post_feedforward_layernorm",
}


def _olmo2_block(config: Any, *, rng: np.random.Generator) -> Module:
    return Olmo2Block(
        config.embedding_dim,
        config.n_heads,
        n_key_value_heads=config.key_value_heads,
        hidden=config.mlp_width,
        dropout=config.dropout,
        eps=config.norm_eps,
        theta=config.rotary_theta,
        rotary_scaling=config.rotary_scaling,
        bias=config.projection_bias,
        rng=rng,
    )


def _check_olmo2(config):
    _check_llama(config)
    _check_defaults(config, ("qk_norm", "head_dim", "mlp_bias", "sliding_window"), "olmo2")
    if not _biases_alike(config):
        raise ValueError("query_key_value_bias and projection_bias go together in olmo2 blocks")


OLMO2 = add_family(
    Family(
        name="olmo2",
        make_block=_olmo2_block,
        make_norm=RMSNorm,
        learned_positions=False,
        mlp_width=_llama_mlp_width,
        check=_check_olmo2,
        formats=(
            Format(
                model_type="olmo2",
                architecture="Olmo2ForCausalLM",
                fits=lambda config: True,
                needed=LLAMA_NEEDED,
                used=(*LLAMA_USED, "attention_bias"),
                fixed=LLAMA_FIXED,
                pieces=lambda config: _llama_pieces(config, OLMO2_NORMS),
                to_theirs=lambda config: {
                    **_llama_to_theirs(config),
                    "attention_bias": config.projection_bias,
                },
                to_ours=lambda theirs: {
                    **_llama_to_ours(theirs, "olmo2"),
                    **_attention_bias(theirs),
                },
                refused=rope_faults,
            ),
        ),
    )
)
