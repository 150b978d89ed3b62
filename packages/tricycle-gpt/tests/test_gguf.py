"""Models in GGUF files: golden numbers; what is written is read again; what is refused."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from tricycle_gpt import GGUFError, from_gguf, generate, read_gguf, to_gguf
from tricycle_gpt.gguf_blocks import KINDS, encode
from tricycle_gpt.gguf_writing import write_gguf
from tricycle_gpt.rope_factors import scaling_of
from tricycle_nn import RotaryScaling

IDS = np.arange(9)[None]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_golden_file_gives_its_scores_and_tokens(name):
    """llama.gguf has F32 F16 BF16 Q8_0 Q4_0 Q4_1; qwen2.gguf Q5_0 Q5_1, biases and its own head."""
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip("TRICYCLE_TEST_DATA is not set: mini/gguf/expected.json is looked for there")
    folder = Path(os.environ["TRICYCLE_TEST_DATA"]) / "mini" / "gguf"
    model = from_gguf(folder / f"{name}.gguf")
    assert model.config.norm_eps == 1e-5  # not the float32 beside it
    assert model.config.tied_head == (name == "llama")
    for case in json.loads((folder / "expected.json").read_text("utf-8"))[name]:
        scores = model(np.array([case["ids"]])).numpy()[0, -1, :40]
        np.testing.assert_allclose(scores, case["last_logits"], rtol=0, atol=1e-4)
        assert list(generate(model, case["ids"], 24, temperature=0)) == case["greedy"]


WRITTEN = {
    "gpt2": {},
    "gpt2, head apart": {},
    "llama": {},
    "llama, grouped, qk-norm": {},  # qwen3
    "qwen2": {},
    "llama, slow turns": {"rotary_factor": 4.0},
    "llama, Llama 3's turns": {"rotary_factor": 8.0, "rotary_trained_window": 32},
    "llama, biases": {"query_key_value_bias": True, "projection_bias": True, "mlp_bias": True},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_read_again(tmp_path, make_tiny, name):
    kind = name if not WRITTEN[name] else "llama"
    model = make_tiny(kind, norm_eps=1e-6, **WRITTEN[name])
    for parameter in model.parameters():  # norms and biases too
        parameter.array += np.random.default_rng(1).standard_normal(parameter.shape) / 8
    again = from_gguf(to_gguf(model, tmp_path / "model.gguf", kind="F32"))
    assert again.config.rotary_scaling == model.config.rotary_scaling
    assert again.config.norm_eps == 1e-6
    assert again.config.tied_head == model.config.tied_head
    np.testing.assert_array_equal(again(IDS).array, model(IDS).array)


def test_every_kind_that_is_written_is_within_its_precision(tmp_path, make_tiny):
    model = make_tiny("llama", embedding_dim=32)
    scores = model(IDS).array
    for kind, largest in (("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 2e-2), ("Q4_0", 0.4)):
        path = to_gguf(model, tmp_path / f"{kind}.gguf", kind)
        away = np.abs(from_gguf(path)(IDS).array - scores).max() / np.abs(scores).max()
        assert 0 < away < largest, kind
    assert read_gguf(path).tensors["blk.0.attn_q.weight"].kind == "Q4_0"
    assert read_gguf(path).tensors["blk.0.attn_norm.weight"].kind == "F32"


def test_a_row_of_no_whole_blocks_is_float16(tmp_path, make_tiny):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "Q8_0")  # 16 wide
    assert read_gguf(path).tensors["blk.0.attn_q.weight"].kind == "F16"


def test_the_gguf_package_reads_what_is_written(tmp_path, make_tiny):
    model = make_tiny("qwen2", embedding_dim=32, n_heads=2)
    path = to_gguf(model, tmp_path / "model.gguf", "Q8_0")
    theirs, ours = GGUFReader(path), read_gguf(path)
    assert theirs.fields["qwen2.attention.key_length"].contents() == 6
    assert theirs.fields["general.architecture"].contents() == "qwen2"
    assert {tensor.name for tensor in theirs.tensors} == set(ours.tensors)
    for tensor in theirs.tensors:
        numbers = dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(numbers.reshape(-1), ours.read(tensor.name).reshape(-1))


def test_llamas_rows_are_neighbours_in_the_file(tmp_path, make_tiny):
    model = make_tiny("llama")  # two heads of 8
    file = read_gguf(to_gguf(model, tmp_path / "model.gguf", "F32"))
    ours = model.blocks[0].attention.query_key_value.weight.array[:, :16].T
    theirs = file.read("blk.0.attn_q.weight")
    np.testing.assert_array_equal(theirs[[0, 1, 2, 8]], ours[[0, 4, 1, 8]])


def test_a_padded_vocabulary_is_as_long_as_its_table(tmp_path, make_tiny):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    assert rewritten(path, {"llama.vocab_size": 20}).config.vocab_size == 23


def rewritten(path, settings=(), without=(), more=()):
    """The file with some settings changed and tensors left out, read."""
    file = read_gguf(path)
    kept = {name: file.read(name) for name in file.tensors if name not in without} | dict(more)
    tensors = [
        (name, array.shape, KINDS["F32"], lambda a=array: encode(a.reshape(-1), KINDS["F32"]))
        for name, array in kept.items()
    ]
    merged = {**file.settings, **dict(settings)}
    write_gguf(path, {name: value for name, value in merged.items() if value is not None}, tensors)
    return from_gguf(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma"}, "architecture 'gemma'; llama, qwen2, qwen3, gpt2 can"),
        ({"llama.expert_count": 4}, r"llama.expert_count, which is not known \(4\)"),
        ({"llama.mystery": "x", "llama.other": 1}, r"llama.mystery.*; llama.other, which is not"),
        ({"llama.rope.scaling.type": "yarn"}, r"llama.rope.scaling.type 'yarn' \(none and linear"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count is 4, and heads have 8"),
        ({"llama.block_count": 0}, "llama.block_count is 0, no number above 0"),
        ({"llama.block_count": "2"}, "llama.block_count is 2, no number above 0"),
        ({"llama.attention.causal": False}, "llama.attention.causal is False"),
        ({"llama.block_count": None}, "does not say num_hidden_layers"),
        ({"llama.block_count": 1}, r"unknown \['model.layers.1.input_layernorm.weight', 'model.la"),
        ({"llama.block_count": 2**31}, "one of the two belongs to another model"),
        ({"llama.feed_forward_length": 2**31}, "one of the two belongs to another model"),
    ],
)
def test_settings_that_are_not_ours_are_named(tmp_path, make_tiny, changes, message):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    with pytest.raises(ValueError, match=message):
        rewritten(path, changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama.layer_widths", r"llama.layer_widths, which is not known \(\[4 5\]\)"),
        ("llama.rope.dimension_count", r"llama.rope.dimension_count is \[4 5\], and heads"),
        ("llama.rope.scaling.type", r"llama.rope.scaling.type '\[4 5\]' \(none and linear"),
        ("general.architecture", r"architecture '\[4 5\]'; llama, qwen2, qwen3, gpt2 can"),
    ],
)
def test_a_list_in_place_of_a_setting_is_named(tmp_path, make_tiny, monkeypatch, name, message):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    file = read_gguf(path)
    file.settings[name] = np.array([4, 5])  # as lists of numbers are read
    monkeypatch.setattr("tricycle_gpt.gguf.read_gguf", lambda path: file)
    with pytest.raises(ValueError, match=message):
        from_gguf(path)


def test_tensors_that_do_not_fit_are_all_listed(tmp_path, make_tiny):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    more = {
        "mystery": np.ones(900, np.float32),
        "blk.0.attn_q.weight": np.ones((4, 16), np.float32),
    }
    with pytest.raises(
        ValueError,
        match=r"missing \['model.layers.1.mlp.up_proj.weight'\], unknown \['mystery'\], misshapen "
        r"\['model.layers.0.self_attn.q_proj.weight is \(4, 16\), expected \(16, 16\)'\]",
    ):
        rewritten(path, without=["blk.1.ffn_up.weight"], more=more)


def test_rotary_factors_that_no_scaling_gives_are_refused(tmp_path, make_tiny):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    with pytest.raises(GGUFError, match="rope_freqs.weight slows rotary positions in another way"):
        rewritten(path, more={"rope_freqs.weight": np.array([1, 3, 2, 9], np.float32)})


def test_rotary_factors_for_heads_of_any_size_take_no_memory(tmp_path, make_tiny):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    sizes = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    tracemalloc.start()
    with pytest.raises(GGUFError, match="has 4 factors for heads of 536,870,912 numbers; there is"):
        rewritten(
            path,
            {f"llama.{name}": 2**29 for name in sizes},
            more={"rope_freqs.weight": np.ones(4, np.float32)},
        )
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("turns", [(1.0, 4.0), (0.5, 2.5), (2.0, 3.0)])
@pytest.mark.parametrize("pairs", [2, 4, 32, 64])
def test_any_llama_3_scaling_is_found_again_from_its_factors(turns, pairs):
    f = 500_000.0 ** (-np.arange(pairs) / pairs)
    for window in (1, 5, 100, 4097, 8192, 131_072, 999_999):
        for factor in (1.5, 8.0, 32 / 3):
            factors = f / RotaryScaling(factor, window, *turns).slowed(f)
            found = scaling_of(factors.astype(np.float32), f)
            assert found is not None
            np.testing.assert_allclose(f / found.slowed(f), factors, rtol=1e-5)


@pytest.mark.parametrize("scaling", [(32 / 3, 57, 1.0, 4.0), (8.0, 2000, 0.5, 3.0)])
def test_a_window_that_is_no_power_of_two_is_read_again(tmp_path, make_tiny, scaling):
    names = ("rotary_factor", "rotary_trained_window", "rotary_low_turns", "rotary_high_turns")
    model = make_tiny("llama", **dict(zip(names, scaling, strict=True)))
    again = from_gguf(to_gguf(model, tmp_path / "model.gguf", "F32"))
    np.testing.assert_allclose(again(IDS).array, model(IDS).array, atol=1e-5)


def test_the_windows_of_published_models_are_found_exactly():
    f = 500_000.0 ** (-np.arange(32) / 32)
    scaling = RotaryScaling(32.0, 8192)  # Llama 3.2's
    assert scaling_of((f / scaling.slowed(f)).astype(np.float32), f) == scaling


def test_one_weight_under_two_names_is_refused_by_both(tmp_path, make_tiny):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    more = {"model.layers.0.self_attn.o_proj.weight": np.zeros((16, 16), np.float32)}
    names = r"blk\.0\.attn_output\.weight and model\.layers\.0\.self_attn\.o_proj\.weight"
    with pytest.raises(GGUFError, match=f"holds weights twice, under two names: {names}"):
        rewritten(path, more=more)


def test_what_cannot_be_written_is_named(tmp_path, make_tiny):
    with pytest.raises(ValueError, match="kind must be one of F32, F16, BF16, Q8_0, Q4_0, got 'Q2"):
        to_gguf(make_tiny(), tmp_path / "model.gguf", "Q2_K")
    with pytest.raises(ValueError, match="type olmo2 are not written as GGUF; llama, qwen2, qwen3"):
        to_gguf(make_tiny("olmo2"), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
