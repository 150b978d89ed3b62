"""Model folders: what is written is read back, and what does not fit is named."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tricycle_gpt import from_huggingface, to_huggingface


def test_a_model_is_the_same_after_being_written_and_read(tmp_path, model):
    again = from_huggingface(to_huggingface(model, tmp_path))
    assert again.config == model.config or again.config.hidden_dim == model.config.mlp_width
    ids = np.random.default_rng(0).integers(0, 23, (2, 9))
    np.testing.assert_array_equal(again(ids).array, model(ids).array)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)


def test_a_model_that_was_read_drops_nothing_until_it_is_trained(tmp_path, make_tiny):
    model = make_tiny(dropout=0.5)
    again = from_huggingface(to_huggingface(model, tmp_path))
    ids = np.arange(9)[None]
    np.testing.assert_array_equal(again(ids).array, model.eval()(ids).array)
    assert not np.array_equal(again.train()(ids).array, model(ids).array)


def test_gpt2_names_and_layouts_are_hugging_faces(tmp_path, make_tiny):
    model = make_tiny(n_layers=1)
    weights = load_file(to_huggingface(model, tmp_path) / "model.safetensors")
    # GPT-2's Conv1D keeps (in, out), as we do.
    expected = model.blocks[0].attention.query_key_value.weight.array
    np.testing.assert_array_equal(weights["transformer.h.0.attn.c_attn.weight"], expected)
    assert sorted(weights) == sorted(
        f"transformer.{name}"
        for name in [
            "wte.weight",
            "wpe.weight",
            "ln_f.weight",
            "ln_f.bias",
            *[
                f"h.0.{layer}.{part}"
                for layer in (
                    "ln_1",
                    "attn.c_attn",
                    "attn.c_proj",
                    "ln_2",
                    "mlp.c_fc",
                    "mlp.c_proj",
                )
                for part in ("weight", "bias")
            ],
        ]
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "gpt2"
    assert config["n_positions"] == 16


def test_llama_matrices_are_transposed_and_apart(tmp_path, make_tiny):
    model = make_tiny("llama, grouped, qk-norm", n_layers=1)
    weights = load_file(to_huggingface(model, tmp_path) / "model.safetensors")
    packed = model.blocks[0].attention.query_key_value.weight.array  # (16, (4 + 2 + 2) · 4)
    layer = "model.layers.0.self_attn."
    np.testing.assert_array_equal(weights[f"{layer}q_proj.weight"], packed[:, :16].T)
    np.testing.assert_array_equal(weights[f"{layer}k_proj.weight"], packed[:, 16:24].T)
    np.testing.assert_array_equal(weights[f"{layer}v_proj.weight"], packed[:, 24:].T)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3"


def test_the_first_gpt2_files_are_read_too(tmp_path, make_tiny):
    model = make_tiny()
    to_huggingface(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): array for name, array in weights.items()}
    old["h.0.attn.bias"] = np.ones((1, 1, 16, 16), np.float32)  # the causal mask
    save_file(old, tmp_path / "model.safetensors")
    ids = np.arange(5)[None]
    np.testing.assert_array_equal(from_huggingface(tmp_path)(ids).array, model(ids).array)


def test_a_missing_file_and_another_kind_of_model_are_named(tmp_path, make_tiny):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        from_huggingface(tmp_path)
    to_huggingface(make_tiny(), tmp_path)
    change_config(tmp_path, model_type="bert")
    with pytest.raises(ValueError, match="type 'bert'; gpt2, llama and qwen3"):
        from_huggingface(tmp_path)


def test_weights_that_do_not_fit_are_all_listed(tmp_path, make_tiny):
    to_huggingface(make_tiny(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["extra"] = np.zeros(1, np.float32)
    del weights["transformer.ln_f.bias"]
    weights["transformer.wpe.weight"] = np.zeros((8, 16), np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"missing \['transformer.ln_f.bias'\], unknown \['extra'\], "
        r"misshapen \['transformer.wpe.weight is \(8, 16\), expected \(16, 16\)'\]",
    ):
        from_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_llamas_that_differ_from_ours_are_refused(tmp_path, make_tiny, changes, message):
    to_huggingface(make_tiny("llama"), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"do not have this model's {message}"):
        from_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "relu"}, "activation_function"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_gpt2s_that_differ_from_ours_are_refused(tmp_path, make_tiny, changes, message):
    to_huggingface(make_tiny(), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"do not have this model's {message}"):
        from_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json is not JSON"),
        ("[]", "should hold names and values, got list"),
        ('{"model_type": "gpt2", "n_embd": 8, "n_head": 1}', "does not say vocab_size, n_layer"),
        (
            '{"model_type": "gpt2", "n_embd": "8", "n_head": 1, "n_layer": 1, "vocab_size": 9}',
            "n_embd should be a whole number, got '8'",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_named(tmp_path, make_tiny, config, message):
    to_huggingface(make_tiny(), tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        from_huggingface(tmp_path)


def test_damaged_weights_are_named(tmp_path, make_tiny):
    path = to_huggingface(make_tiny(), tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged, or no safetensors file"):
        from_huggingface(tmp_path)


def test_bfloat16_weights_are_read(tmp_path, make_tiny):
    model = make_tiny()
    path = to_huggingface(model, tmp_path) / "model.safetensors"
    rounded = {n: a.astype(ml_dtypes.bfloat16) for n, a in load_file(path).items()}
    save_file(rounded, path)
    again = from_huggingface(tmp_path)
    for name, array in model.state_dict().items():
        expected = array.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(again.state_dict()[name], expected)
        assert again.state_dict()[name].dtype == np.float32


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
