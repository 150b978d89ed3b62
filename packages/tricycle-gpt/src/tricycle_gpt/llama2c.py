"""Models in llama2.c's .bin files: seven sizes, then float32 numbers, one array after the other.

    width  hidden  layers  heads  key-value heads  vocabulary  window        int32 each
    the token table; for all layers: a norm, queries, keys, values, what joins the heads, a norm,
    gates, down, up; the last norm; the cosines and sines of all positions, which are not read; a
    head of its own where the vocabulary is written as a negative number

The two numbers that turn together are neighbours in the rows of queries and keys, as in GGUF files
of architecture llama.  A file holds no tokeniser; llama2.c's are SentencePiece, not read here.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.gguf import halves_apart
from tricycle_gpt.model import GPT
from tricycle_gpt.published import HEAD, Stored, model_of

HEADER = struct.Struct("<7i")
MAGIC = b"24ka"  # newer versions of the format begin with it; they are not read
MANY = 1000  # layers, and no model has them;
LEAST_LAYER = 4096  # bytes of a layer in a file: a smaller one takes more in memory than there
NAMES = ("width", "hidden", "layers", "heads", "key-value heads", "vocabulary", "window")


def from_llama2c(path: str | Path) -> GPT:
    """Read a model from a .bin file of llama2.c, the first version of the format.

    Raises FileNotFoundError; ValueError for sizes that make no sense, for a file that is not as
    long as they say, and for newer versions of the format.
    """
    config, stored = llama2c_in(path)
    return model_of(config, stored, str(path))


def llama2c_in(path: str | Path) -> tuple[GPTConfig, dict[str, Stored]]:
    """A file's model before it is read: its size, and where each weight is.  Raises as above."""
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if head[:4] == MAGIC:
        raise ValueError(
            f"{path} is of a newer version of llama2.c's format; the first can be read"
        )
    if len(head) < HEADER.size:
        raise ValueError(f"{path} has {len(head)} bytes, and no model of llama2.c's")
    sizes = dict(zip(NAMES, HEADER.unpack(head), strict=True))
    tied = sizes["vocabulary"] > 0
    sizes["vocabulary"] = abs(sizes["vocabulary"])
    if wrong := [f"{name} {size}" for name, size in sizes.items() if size < 1]:
        raise ValueError(f"{path} is not a model of llama2.c's: it says {', '.join(wrong)}")
    try:
        config = _config(sizes, tied)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    numbers = (path.stat().st_size - HEADER.size) / 4
    expected = sum(math.prod(shape) * n for _, shape, n in _parts(config))
    if numbers != expected:
        raise ValueError(
            f"{path} holds {numbers:,} numbers, and the sizes it begins with need {expected:,}: "
            "it is cut short, or not a model of llama2.c's"
        )
    layer = 4 * sum(math.prod(shape) for _, shape, n in _parts(config) if n == config.n_layers)
    if config.n_layers > MANY and layer < LEAST_LAYER:
        raise ValueError(
            f"{path} says it has {config.n_layers:,} layers of {layer:,} bytes each: that is not a "
            "model of llama2.c's"
        )
    return config, _stored(path, config)


def _config(sizes, tied):
    return GPTConfig(
        sizes["vocabulary"],
        sizes["window"],
        sizes["width"],
        sizes["layers"],
        sizes["heads"],
        "llama",
        n_key_value_heads=sizes["key-value heads"],
        hidden_dim=sizes["hidden"],
        tied_head=tied,
    )


def _parts(config: GPTConfig) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Each array of the file in its order: a name, the shape of one, how many lie together."""
    C, H, L = config.embedding_dim, config.mlp_width, config.n_layers
    V, keys = config.vocab_size, config.key_value_heads * config.head_size
    yield "model.embed_tokens.weight", (V, C), 1
    for name, shape in (
        ("input_layernorm", (C,)),
        ("self_attn.q_proj", (C, C)),
        ("self_attn.k_proj", (keys, C)),
        ("self_attn.v_proj", (keys, C)),
        ("self_attn.o_proj", (C, C)),
        ("post_attention_layernorm", (C,)),
        ("mlp.gate_proj", (H, C)),
        ("mlp.down_proj", (C, H)),
        ("mlp.up_proj", (H, C)),
    ):
        yield f"model.layers.{{}}.{name}.weight", shape, L
    yield "model.norm.weight", (C,), 1
    yield "", (config.context_window, config.head_size), 1  # cosines and sines
    if not config.tied_head:
        yield HEAD, (V, C), 1


def _stored(path, config):
    found, place = {}, HEADER.size
    for name, shape, n in _parts(config):
        for i in range(n):
            if name:
                heads = _heads(name, config)
                found[name.format(i)] = Stored(shape, "F32", _reader(path, place, shape, heads))
            place += 4 * math.prod(shape)
    return found


def _heads(name, config):
    """How many heads the rows of a matrix belong to that are turned; 0 for the others."""
    if name.endswith("q_proj.weight"):
        return config.n_heads
    return config.key_value_heads if name.endswith("k_proj.weight") else 0


def _reader(path, place, shape, heads):
    def read():
        array = np.fromfile(path, "<f4", math.prod(shape), offset=place).reshape(shape)
        return halves_apart(array, heads) if heads else array

    return read
