"""llama2.c's .bin files: a real one, a written one, and those that are refused."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import find_weights, from_llama2c, generate
from tricycle_gpt.published import HEAD, pieces

IDS = np.arange(9)[None]
ORDER = (  # of a layer's arrays
    *("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    *("self_attn.o_proj", "post_attention_layernorm"),
    *("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"),
)


def written(model, path):
    """A model in the layout that llama2.c writes; heads of 8: pairs (i, i + 4) are neighbours."""
    config = model.config
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    theirs = {name: piece.of(parameters) for name, piece in pieces(config).items()}
    for name, array in theirs.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            halves = array.reshape(-1, 2, 4, config.embedding_dim)
            theirs[name] = halves.swapaxes(1, 2)
    names = [f"model.layers.{{}}.{name}.weight" for name in ORDER]
    in_order = [theirs["model.embed_tokens.weight"]]
    in_order += [theirs[name.format(i)] for name in names for i in range(config.n_layers)]
    in_order += [theirs["model.norm.weight"], np.zeros((config.context_window, 8))]
    in_order += [] if config.tied_head else [theirs[HEAD]]
    vocabulary = config.vocab_size if config.tied_head else -config.vocab_size
    sizes = (config.embedding_dim, config.mlp_width, config.n_layers, config.n_heads)
    sizes += (config.key_value_heads, vocabulary, config.context_window)
    numbers = np.concatenate([np.ravel(array) for array in in_order]).astype("<f4")
    path.write_bytes(struct.pack("<7i", *sizes) + numbers.tobytes())
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_in_their_layout_gives_the_same_model(tmp_path, make_tiny, tied):
    sizes = {"n_heads": 4, "n_key_value_heads": 2, "embedding_dim": 32}
    model = make_tiny("llama", tied_head=tied, **sizes)
    for parameter in model.parameters():  # norms too
        parameter.array += np.random.default_rng(1).standard_normal(parameter.shape) / 8
    path = written(model, tmp_path / "model.bin")
    again = from_llama2c(path)
    assert again.config.tied_head == tied
    np.testing.assert_array_equal(again(IDS).array, model(IDS).array)
    assert find_weights(path).config == again.config


def test_stories260k_tells_its_story():
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip(
            "TRICYCLE_TEST_DATA is not set: stories260K/stories260K.bin is looked for there"
        )
    path = Path(os.environ["TRICYCLE_TEST_DATA"]) / "stories260K" / "stories260K.bin"
    model = from_llama2c(path)
    assert model.n_parameters() == 260_032
    # After BOS, as llama2.c writes: " Once upon a time, there was a little girl named Lily."
    story = [403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426]
    assert list(generate(model, [1], 15, temperature=0)) == story


def test_what_is_no_model_of_theirs_is_refused(tmp_path, make_tiny):
    path = written(make_tiny("llama", embedding_dim=16), tmp_path / "model.bin")
    whole = path.read_bytes()
    for changed, message in (
        (whole[:-4], r"model.bin holds [\d,.]+ numbers, and the sizes it begins with need [\d,]+"),
        (whole + bytes(2), "it is cut short, or not a model"),
        (struct.pack("<7i", 2**31 - 1, *[2**30] * 6) + whole[28:], "multiple of n_heads"),
        (struct.pack("<7i", 16, 64, -2, 2, 2, 23, 0) + whole[28:], "it says layers -2, window 0"),
        (b"24ka" + whole[4:], "newer version of llama2.c's format"),
        (whole[:20], "has 20 bytes, and no model"),
        (struct.pack("<7i", *[2**30] * 4, 2**29, 1, 1), "must be even, got 1"),
        # Layers of two numbers a row: 26 numbers in a file, and ten objects in memory.
        (
            struct.pack("<7i", 2, 2, 2000, 1, 1, 1, 1) + bytes(4 * (2 + 2000 * 32 + 2 + 2)),
            "says it has 2,000 layers of 128 bytes each: that is not a model",
        ),
        (struct.pack("<7i", *[2**30] * 3, 1, 1, 1, 1), r"holds 0.0 numbers, .* need [\d,]{30}"),
    ):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=message):
            from_llama2c(path)
