"""Models in GGUF files, llama.cpp's format: one file with sizes, weights and a vocabulary.

    from_gguf("SmolLM2-135M-Instruct.Q4_1.gguf")      any quantised type becomes float32
    to_gguf(model, "model.gguf", kind="Q8_0")

A GGUF file holds what a model folder does, under other names.  So its settings are turned into
those of a config.json, its tensors get the names they have there, and the rest is the families'
(families.py).  What differs:

    - files of the architecture llama have the rows of wq and wk in another order: the two numbers
      that are turned together are neighbours there, and half a head apart here
    - GPT-2's matrices lie the other way round
    - eps and theta are float32: 9.999999747e-06 is meant to be 1e-5
    - the slowed turns of Llama 3.1 are a tensor of factors, rope_freqs.weight
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.gguf_blocks import KINDS, encode
from tricycle_gpt.gguf_file import GGUFError, GGUFFile, read_gguf
from tricycle_gpt.gguf_vocabulary import ENDS, UNUSED, vocabulary_of
from tricycle_gpt.gguf_writing import write_gguf
from tricycle_gpt.model import GPT
from tricycle_gpt.published import Stored, model_of, pieces
from tricycle_gpt.quantised import check_not_quantised
from tricycle_gpt.rope_factors import scaling_of
from tricycle_gpt.their_settings import our_config

OUTER_NAMES = {  # in the file, in a model folder
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_OUTER_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
GPT2_LAYER_NAMES = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
TURNED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")  # GPT-2's, which lie the other way
LLAMA_SETTINGS = {  # after the architecture's name: in config.json
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
GPT2_SETTINGS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
ARCHITECTURES: dict[str, dict[str, str]] = {
    "llama": LLAMA_SETTINGS,
    "qwen2": LLAMA_SETTINGS,
    "qwen3": LLAMA_SETTINGS,
    "gpt2": GPT2_SETTINGS,
}
CHECKED = (  # settings that are looked at, but have no name of their own in config.json
    *("vocab_size", "rope.dimension_count", "attention.value_length"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
    *("rope.scaling.finetuned", "attention.causal"),
)
ROPE_FACTORS = "rope_freqs.weight"


def from_gguf(path: str | Path) -> GPT:
    """Read a model from a GGUF file of architecture llama, qwen2, qwen3 or gpt2.

    Its numbers may be F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K; the model
    is of float32, and at most the model and one tensor are in memory.  Its `end_ids`, `begin_id`,
    `known_ids` and `chat_template` are the file's.

    Raises FileNotFoundError; `GGUFError`, a ValueError, for a damaged file, with everything that
    is wrong; ValueError for another architecture, for settings that our blocks do not know, and for
    tensors that do not fit (every name is listed).
    """
    file, kind, config = opened(path)
    model = model_of(config, _stored(file, kind, config), str(path))
    model.end_ids, model.begin_id, model.chat_template = said_of_texts(file)
    kinds = np.asarray(file.settings.get("tokenizer.ggml.token_type", ()))
    if kinds.shape == (config.vocab_size,) and (kinds != UNUSED).any():
        model.known_ids = kinds != UNUSED
    return model


def said_of_texts(file: GGUFFile) -> tuple[tuple[int, ...], int | None, str | None]:
    """The tokens after which a text ends, the one that begins it, and a chat template.

    A file names an end of a text (eos), and perhaps of a turn (eot) and a message (eom), which
    end it too.  A number outside the vocabulary is passed over.
    """

    def token(name):
        found: Any = file.settings.get(f"tokenizer.ggml.{name}_token_id")
        return found if type(found) is int and 0 <= found < most else None

    most = len(file.settings.get("tokenizer.ggml.tokens", ())) or 2**31
    ends = dict.fromkeys(i for i in map(token, ENDS) if i is not None)
    template: Any = file.settings.get("tokenizer.chat_template")
    return tuple(ends), token("bos"), template if isinstance(template, str) else None


def opened(path: str | Path) -> tuple[GGUFFile, str, GPTConfig]:
    """A file with a model in it, its architecture, and its size: no weight is read.

    Raises as `from_gguf` does, but for tensors that do not fit.
    """
    file = read_gguf(path)
    kind = file.settings.get("general.architecture")
    if type(kind) is not str or kind not in ARCHITECTURES:
        raise GGUFError(
            f"{path} holds a model of architecture {str(kind)[:40]!r}; {', '.join(ARCHITECTURES)} "
            "can be read"
        )
    config = our_config(_their_settings(file, kind), str(path))
    if kind != "gpt2":
        config = _with_biases(config, file)
        config = _with_factors(config, file)
    return file, kind, config


# ---- Settings ----


def _their_settings(file, kind):
    """What config.json would say.  GGUFError that lists what is not known, or of the wrong kind."""
    found: dict[str, Any] = {"model_type": kind, "tie_word_embeddings": True}
    faults = []
    names = ARCHITECTURES[kind]
    for name, value in file.settings.items():
        if not name.startswith(f"{kind}."):
            continue
        short = name.removeprefix(f"{kind}.")
        if short in names and type(value) in (int, float) and value > 0:
            found[names[short]] = _meant(value)
        elif short in names:
            faults.append(f"{name} is {str(value)[:60]}, no number above 0")
        elif short not in CHECKED and not (type(value) in (int, float, bool) and value == 0):
            faults.append(f"{name}, which is not known ({str(value)[:60]})")
    if "token_embd.weight" in file.tensors:  # longer than the vocabulary where it is padded
        found["vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    if kind != "gpt2":
        found.setdefault("head_dim", _head_dim(found))
        found |= _rope_scaling(file, kind, faults)
        for short in ("rope.dimension_count", "attention.value_length"):
            size = file.settings.get(f"{kind}.{short}", found["head_dim"])
            if type(size) is not int or size != found["head_dim"]:
                faults.append(
                    f"{kind}.{short} is {str(size)[:40]}, and heads have {found['head_dim']}"
                )
    if file.settings.get(f"{kind}.attention.causal") is False:
        faults.append(f"{kind}.attention.causal is False")
    if faults:
        raise GGUFError(f"{file.path}: our blocks do not have this model's {'; '.join(faults)}")
    return found


def _meant(value):
    """The number that a float32 stands for: 9.999999747e-06 is 1e-5."""
    return value if isinstance(value, int) else float(str(np.float32(value)))


def _head_dim(found):
    heads = found.get("num_attention_heads")
    return found.get("hidden_size", 0) // heads if isinstance(heads, int) else None


def _rope_scaling(file, kind, faults):
    how = str(file.settings.get(f"{kind}.rope.scaling.type", "none"))  # a hostile list, too
    factor = file.settings.get(f"{kind}.rope.scaling.factor", 1.0)
    if how == "none":
        return {}
    if how == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    faults.append(f"{kind}.rope.scaling.type {str(how)[:40]!r} (none and linear are known)")
    return {}


def _with_biases(config, file):
    """With the biases that are there: no setting names them."""
    return replace(
        config,
        query_key_value_bias="blk.0.attn_q.bias" in file.tensors,
        projection_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
    )


def _with_factors(config, file):
    """With the rotary scaling that the tensor of factors comes from (rope_factors.py)."""
    if ROPE_FACTORS not in file.tensors:
        return config
    factors = file.read(ROPE_FACTORS).reshape(-1)
    if len(factors) != (config.head_size + 1) // 2:  # which a few bytes can say to be of any size
        raise GGUFError(
            f"{file.path}: {ROPE_FACTORS} has {len(factors):,} factors for heads of "
            f"{config.head_size:,} numbers; there is one for each pair"
        )
    scaling = scaling_of(factors, _frequencies(config))
    if scaling is None:
        raise GGUFError(
            f"{file.path}: {ROPE_FACTORS} slows rotary positions in another way than Llama 3.1's"
        )
    return replace(
        config,
        rotary_factor=scaling.factor,
        rotary_trained_window=scaling.trained_window,
        rotary_low_turns=scaling.low,
        rotary_high_turns=scaling.high,
    )


def _frequencies(config):
    """The angles by which pairs turn at each position, (D/2,), not slowed."""
    D = config.head_size
    return config.rotary_theta ** (-np.arange(0, D, 2) / D)


def _rope_factors(config, scaling):
    """What each pair's frequency is divided by, (D/2,)."""
    frequencies = _frequencies(config)
    return frequencies / scaling.slowed(frequencies)


# ---- Tensors ----


def _stored(file, kind, config):
    """The file's tensors under the names they have in a model folder."""
    found: dict[str, Stored] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in file.tensors.items():
        if name != ROPE_FACTORS or kind == "gpt2":
            change = _to_ours(kind, name, config)
            shape = tensor.shape[::-1] if change is np.transpose else tensor.shape
            theirs = _their_name(kind, name)
            names.setdefault(theirs, []).append(name)
            found[theirs] = Stored(shape, "F32", _reader(file, name, change))
    if meeting := [" and ".join(same) for same in names.values() if len(same) > 1]:
        raise GGUFError(f"{file.path} holds weights twice, under two names: {', '.join(meeting)}")
    return found


def _reader(file, name, change) -> Callable[[], np.ndarray]:
    return lambda: change(file.read(name))


def _tables(kind):
    """Names outside the layers, names inside, and what stands before a layer's number."""
    if kind == "gpt2":
        return GPT2_OUTER_NAMES, GPT2_LAYER_NAMES, "transformer.h"
    return OUTER_NAMES, LAYER_NAMES, "model.layers"


def _their_name(kind, name):
    """A tensor's name in a model folder; one that is not known stays as it is."""
    outer, layer, layers = _tables(kind)
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        number, part, last = found.groups()
        return f"{layers}.{number}.{layer[part]}.{last}" if part in layer else name
    part, _, last = name.rpartition(".")
    return f"{outer[part]}.{last}" if part in outer else name


def _file_names(kind, config):
    """The names in a file, by those in a model folder."""
    outer, layer, layers = _tables(kind)
    parts = {theirs: part for part, theirs in outer.items()}
    for i in range(config.n_layers):
        parts |= {f"{layers}.{i}.{theirs}": f"blk.{i}.{part}" for part, theirs in layer.items()}
    return parts


def _to_ours(kind, name, config) -> Callable[[np.ndarray], np.ndarray]:
    """How a tensor of the file is laid out as in a model folder."""
    part = name.split(".")[-2] if "." in name else name
    if kind == "gpt2" and part in TURNED and name.endswith(".weight"):
        return np.transpose
    if kind == "llama" and part in ("attn_q", "attn_k"):
        heads = config.n_heads if part == "attn_q" else config.key_value_heads
        return lambda array: halves_apart(array, heads)
    return lambda array: array


def halves_apart(array, heads):
    """Rows of each head: pairs (2i, 2i + 1) become pairs (i, i + D/2)."""
    if array.shape[0] % (2 * heads):
        return array  # which does not fit, as will be said
    pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _neighbours(array, heads):
    """Rows of each head: pairs (i, i + D/2) become pairs (2i, 2i + 1)."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(array.shape)


# ---- Writing ----


def to_gguf(model: GPT, path: str | Path, kind: str = "F16", tokeniser: Any = None) -> Path:
    """Write a model of the families gpt2 and llama as a GGUF file, which llama.cpp runs.

    kind       of the matrices' numbers: F32, F16, BF16, Q8_0 or Q4_0.  Vectors are F32, and a
               matrix whose rows are no whole blocks of 32 is F16
    tokeniser  anything whose save(folder) writes a tokenizer.json, such as tricycle_bpe's.  With it
               the file has its vocabulary, the tokens that begin and end a text, and the model's
               chat template; without it none, and no program can read texts

    Returns the path.  Raises ValueError for another kind, for a model that no architecture of
    GGUF's fits which we write, and for a tokeniser that GGUF files have no name for
    (gguf_vocabulary.py); OSError if it cannot be written.
    """
    written = [name for name, known in KINDS.items() if known.encode is not None]
    if kind not in written:
        raise ValueError(f"kind must be one of {', '.join(written)}, got {kind!r}")
    check_not_quantised(model)
    config = model.config
    format_ = config.family.format_of(config)
    architecture = format_.model_type
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"models of the type {architecture} are not written as GGUF; "
            f"{', '.join(ARCHITECTURES)} are"
        )
    arrays = _arrays(model, architecture)
    kinds = {name: _kind_for(array, kind) for name, array in arrays.items()}
    tensors = [
        (name, array.shape, KINDS[kinds[name]], _encoder(array, KINDS[kinds[name]]))
        for name, array in arrays.items()
    ]
    settings = _settings_of(config, architecture, format_)
    if tokeniser is not None:
        settings |= vocabulary_of(model, tokeniser)
    write_gguf(Path(path), settings, tensors)
    return Path(path)


def _encoder(array, kind):
    return lambda: encode(np.ascontiguousarray(array, np.float32).reshape(-1), kind)


def _kind_for(array, kind):
    if array.ndim == 1:
        return "F32"
    return kind if array.shape[-1] % KINDS[kind].numbers == 0 else "F16"


def _arrays(model, kind):
    """Views of the model's weights, by their names in the file and laid out as there."""
    config = model.config
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    names = _file_names(kind, config)
    found = {}
    for theirs, piece in pieces(config).items():
        stem, _, last = theirs.rpartition(".")
        name, array = f"{names[stem]}.{last}", piece.of(parameters)
        part = names[stem].split(".")[-1]
        if kind == "gpt2" and part in TURNED and last == "weight":
            array = array.T
        if kind == "llama" and part in ("attn_q", "attn_k"):
            heads = config.n_heads if part == "attn_q" else config.key_value_heads
            array = _neighbours(array, heads)
        found[name] = array
    scaling = config.rotary_scaling
    if scaling is not None and scaling.trained_window is not None:
        found[ROPE_FACTORS] = _rope_factors(config, scaling).astype(np.float32)
    return found


def _settings_of(config, kind, format_):
    theirs = {**format_.to_theirs(config), "vocab_size": config.vocab_size}
    found: dict[str, Any] = {"general.architecture": kind, "tokenizer.ggml.model": "none"}
    for short, name in ARCHITECTURES[kind].items():
        if name in theirs:
            found[f"{kind}.{short}"] = theirs[name]
    found[f"{kind}.vocab_size"] = config.vocab_size
    if kind != "gpt2":
        found[f"{kind}.attention.value_length"] = config.head_size
        found[f"{kind}.rope.dimension_count"] = config.head_size
    scaling = config.rotary_scaling
    if scaling is not None and scaling.trained_window is None:
        found[f"{kind}.rope.scaling.type"] = "linear"
        found[f"{kind}.rope.scaling.factor"] = scaling.factor
    return found
