"""Model folders: what is written is read back, and what does not fit is named."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tricycle_gpt import (
    Evaluation,
    TrainingConfig,
    from_huggingface,
    generate,
    quantise,
    to_huggingface,
)
from tricycle_gpt.model_card import model_card
from tricycle_gpt.published import pieces
from tricycle_gpt.safetensors_files import write_in_folder
from tricycle_gpt.their_settings import our_config

IDS = np.arange(9)[None]


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


def test_what_says_nothing_or_changes_nothing_is_harmless(tmp_path, make_tiny):
    model = make_tiny("llama")
    to_huggingface(model, tmp_path)
    change_config(tmp_path, mystery=None, rope_scaling=None, _name_or_path="x", use_cache=True)
    change_config(tmp_path, is_llama_config=True, rope_interleaved=False, pretraining_tp=1)
    ids = np.arange(5)[None]
    np.testing.assert_array_equal(from_huggingface(tmp_path)(ids).array, model(ids).array)


def test_what_a_config_leaves_out_is_what_transformers_takes(tmp_path, make_tiny):
    config = {
        "vocab_size": 23,
        "hidden_size": 512,
        "num_attention_heads": 32,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "max_position_embeddings": 16,
    }
    qwen3 = our_config({**config, "model_type": "qwen3"}, "here")
    assert (qwen3.head_size, qwen3.key_value_heads, qwen3.norm_eps) == (128, 32, 1e-6)
    mistral = our_config({**config, "model_type": "mistral"}, "here")
    assert (mistral.sliding_window, mistral.key_value_heads, mistral.head_size) == (4096, 8, 16)
    olmo2 = our_config({**config, "model_type": "olmo2"}, "here")
    assert (olmo2.norm_eps, olmo2.rotary_theta, olmo2.key_value_heads) == (1e-5, 1e4, 32)


def in_two_files(folder):
    """The weights of a model folder in two files with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    where = {}
    for i, some in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in some}, folder / file)
        where |= dict.fromkeys(some, file)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index, where


def test_weights_in_several_files_are_read(tmp_path, make_tiny):
    model = make_tiny("llama, grouped, qk-norm")
    in_two_files(to_huggingface(model, tmp_path))
    ids = np.arange(5)[None]
    np.testing.assert_array_equal(from_huggingface(tmp_path)(ids).array, model(ids).array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": "../model.safetensors"}, r"'\.\./model\.safetensors' is no file name"),
        ({"a": "m" * 300 + ".safetensors"}, r"mmm\.safetensors' is no file name"),
        ({"a": "/etc/passwd", "b": "c.safetensors"}, "is no file name; c.safetensors is missing"),
        ({"\ud800": "model-00001-of-00002.safetensors"}, r"not there: \\ud800 in model-00001"),
        ({"a": "\udfff.safetensors"}, r"'\\udfff\.safetensors' is no file name"),
        ({"a": 3, "b": "c.bin"}, "is no index of weights: TypeError"),
        ({"a": "model-00001-of-00002.safetensors"}, "names tensors that are not there: a in model"),
    ],
)
def test_an_index_that_names_what_cannot_be_read_is_refused(tmp_path, make_tiny, change, message):
    index, where = in_two_files(to_huggingface(make_tiny(), tmp_path))
    index.write_text(json.dumps({"weight_map": {**where, **change}}))
    with pytest.raises(ValueError, match=message) as error:
        from_huggingface(tmp_path)
    assert str(error.value).isprintable()
    index.write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json is no index of weights: TypeError"):
        from_huggingface(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"index\.json is no index of weights: RecursionError"):
        from_huggingface(tmp_path)


def test_float16_is_read_and_types_that_are_not_are_named(tmp_path, make_tiny):
    model = make_tiny()
    path = to_huggingface(model, tmp_path) / "model.safetensors"
    weights = {name: array.astype(np.float16) for name, array in load_file(path).items()}
    save_file(weights, path)
    found = from_huggingface(tmp_path).state_dict()
    expected = model.state_dict()["norm.weight"].astype(np.float16)
    np.testing.assert_array_equal(found["norm.weight"], expected)
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"].astype(np.int8)
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"holds I8 \(transformer.wte.weight is one of 1\)"):
        from_huggingface(tmp_path)


def test_a_missing_file_and_another_kind_of_model_are_named(tmp_path, make_tiny):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        from_huggingface(tmp_path)
    to_huggingface(make_tiny(), tmp_path)
    change_config(tmp_path, model_type="bert")
    with pytest.raises(
        ValueError, match="type 'bert'; gpt2, llama, qwen2, qwen3, mistral and olmo2"
    ):
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
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_scaling of the kind 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling llama3 whose factor is None"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "linear whose factor is -1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "with partial_rotary_factor 0.5"),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2},
                "rope_parameters": {"rope_type": "default"},
            },
            "rope_scaling and rope_parameters, which say different things",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_interleaved": True}, "rope_interleaved True"),
        ({"sliding_window": 4096}, "sliding_window, which is not known"),
        ({"layer_types": ["sliding_attention"]}, r"layer_types \['sliding_attention'\]"),
        ({"layer_types": 5}, "layer_types 5"),
        ({"layer_types": "full_attention"}, "layer_types .full_attention."),
        ({"logit_scale": 0.5}, r"logit_scale, which is not known \(0.5\)"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier, which is not known"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads {'0'"),
        ({"is_decoder": 0}, "is_decoder 0"),
        (
            {"hidden_act": "relu", "mystery": 1, "logit_scale": 2.0},
            r"hidden_act 'relu'; mystery, which is not known \(1\); logit_scale",
        ),
    ],
)
def test_llamas_that_differ_from_ours_are_refused(tmp_path, make_tiny, changes, message):
    to_huggingface(make_tiny("llama"), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"do not have this model's .*{message}"):
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


# ---- What else a folder may say ----


class Tokeniser:
    """As much of one as a model folder asks for."""

    def __init__(self, n_vocab, special_tokens):
        self.n_vocab, self.special_tokens = n_vocab, special_tokens

    def save(self, folder):
        ids = {"a": 0, "b": 1, **self.special_tokens}
        document = {"model": {"vocab": ids}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(document))


def read_json(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_other_programs_are_told_where_a_text_ends_and_how_to_read_the_tokeniser(tmp_path, model):
    to_huggingface(model, tmp_path, Tokeniser(3, {"<|endoftext|>": 2}))
    assert read_json(tmp_path, "tokenizer_config") == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 16,
        "clean_up_tokenization_spaces": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    }
    for name in ("config", "generation_config"):
        found = read_json(tmp_path, name)
        assert found["eos_token_id"] == found["bos_token_id"] == 2


def test_without_an_end_of_text_token_none_is_made_up(tmp_path, make_tiny):
    to_huggingface(make_tiny(), tmp_path, Tokeniser(2, {}))
    assert "eos_token" not in read_json(tmp_path, "tokenizer_config")
    # null, or transformers would take GPT-2's own 50256, which is outside of this table.
    assert read_json(tmp_path, "config")["eos_token_id"] is None


def test_a_tokeniser_of_more_tokens_than_the_model_is_refused(tmp_path, make_tiny):
    with pytest.raises(ValueError, match="the tokeniser has 24 tokens and the model knows 23"):
        to_huggingface(make_tiny(), tmp_path, Tokeniser(24, {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_ids_that_the_tokeniser_does_not_know_are_never_written(tmp_path, make_tiny, temperature):
    model = make_tiny()  # of 23 tokens: a table that is padded
    model.token_embedding.weight.array[3:] *= 10  # which its padding would win
    again = from_huggingface(to_huggingface(model, tmp_path, Tokeniser(3, {"<|endoftext|>": 2})))
    assert again.known_ids.tolist() == [True] * 3 + [False] * 20
    for each in (again, quantise(again)):
        assert set(generate(each, [0], 100, temperature=temperature)) <= {0, 1, 2}
    assert not set(generate(model, [0], 100, temperature=temperature)) <= {0, 1, 2}


def test_a_tokeniser_that_knows_every_id_or_is_damaged_leaves_all_of_them(tmp_path, make_tiny):
    to_huggingface(make_tiny(vocab_size=3), tmp_path, Tokeniser(3, {"<|endoftext|>": 2}))
    assert from_huggingface(tmp_path).known_ids is None
    for text in ("", "[]", '{"model": {"vocab": []}}', "[" * 100_000):
        (tmp_path / "tokenizer.json").write_text(text)
        assert from_huggingface(tmp_path).known_ids is None


def test_the_newer_place_of_rotary_theta_is_believed(tmp_path, make_tiny):
    to_huggingface(make_tiny("llama"), tmp_path)
    change_config(tmp_path, rope_theta=10000.0, rope_parameters={"rope_theta": 500000.0})
    assert from_huggingface(tmp_path).config.rotary_theta == 500000.0
    change_config(tmp_path, rope_theta=20000, rope_parameters=None)
    assert from_huggingface(tmp_path).config.rotary_theta == 20000.0


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("tie", [True, None, "left out"])
def test_a_head_of_its_own_is_kept_whatever_the_config_says(tmp_path, make_tiny, kind, tie):
    model = make_tiny(kind, tied_head=False)
    to_huggingface(model, tmp_path)
    change_config(tmp_path, tie_word_embeddings=tie)
    if tie == "left out":
        config = read_json(tmp_path, "config")
        del config["tie_word_embeddings"]
        (tmp_path / "config.json").write_text(json.dumps(config))
    again = from_huggingface(tmp_path)
    assert not again.config.tied_head
    np.testing.assert_array_equal(again.head_weight.array, model.head_weight.array)
    ids = np.arange(9)[None]
    np.testing.assert_array_equal(again(ids).array, model(ids).array)


def test_a_table_that_is_written_under_both_names_is_one(tmp_path, make_tiny):
    path = to_huggingface(make_tiny(), tmp_path) / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "lm_head.weight": weights["transformer.wte.weight"]}, path)
    again = from_huggingface(tmp_path)
    assert again.head_weight is again.token_embedding.weight


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.complex64, bool])
def test_weights_that_are_no_ordinary_numbers_are_refused_by_name(tmp_path, make_tiny, dtype):
    path = to_huggingface(make_tiny(), tmp_path) / "model.safetensors"
    weights = load_file(path)
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"].astype(dtype)
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"holds \w+ \(transformer\.wte\.weight is one of 1\)"):
        from_huggingface(tmp_path)


def test_weights_in_8_bit_floats_are_refused_by_name(tmp_path, make_tiny):
    path = to_huggingface(make_tiny(), tmp_path) / "model.safetensors"
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=r"F8_E4M3 \(a is one of 1\); weights in F64, F32, F16, "):
        from_huggingface(tmp_path)


def test_quantised_models_are_refused_by_what_their_config_says(tmp_path, make_tiny):
    to_huggingface(make_tiny("llama"), tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ValueError, match="quantised weights .its config.json has a"):
        from_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gpt2", "n_layer"),
        ("gpt2", "vocab_size"),
        ("gpt2", "n_inner"),
        ("gpt2", "n_positions"),
        ("gpt2", "n_embd"),
        ("llama", "num_hidden_layers"),
        ("llama", "vocab_size"),
        ("llama", "intermediate_size"),
        ("llama", "hidden_size"),
    ],
)
def test_a_config_too_large_for_its_weights_is_refused_before_a_model_is_made(
    tmp_path, make_tiny, kind, name
):
    to_huggingface(make_tiny(kind), tmp_path)
    change_config(tmp_path, head_dim=None, **{name: 4 * 10**9})
    with pytest.raises(ValueError, match="one of the two belongs to another model"):
        from_huggingface(tmp_path)


def test_a_weight_that_is_there_with_and_without_its_prefix_is_named(tmp_path, make_tiny):
    path = to_huggingface(make_tiny(), tmp_path) / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "wte.weight": weights["transformer.wte.weight"] + 1}, path)
    with pytest.raises(ValueError, match=r"transformer\.wte\.weight twice"):
        from_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {"n_positions": "16"}, "n_positions should be a whole number, got '16'"),
        ("gpt2", {"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon should be a number"),
        ("gpt2", {"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon should be a number"),
        ("gpt2", {"tie_word_embeddings": "yes"}, "tie_word_embeddings should be true or false"),
        ("gpt2", {"n_head": 0}, "n_heads must be at least 1, got 0"),
        ("gpt2", {"n_layer": True}, "n_layer should be a whole number, got True"),
        ("llama", {"num_attention_heads": 0}, "n_heads must be at least 1, got 0"),
        ("llama", {"rope_parameters": "linear"}, "rope_parameters should be a section"),
        ("llama", {"rope_scaling": [2.0]}, "rope_scaling should be a section"),
        ("llama", {"rope_theta": []}, "rope_theta should be a number, got "),
        ("llama", {"rope_parameters": {"rope_theta": -1}}, "rotary_theta must be above 0, got -1"),
        ("llama", {"num_key_value_heads": 1.5}, "num_key_value_heads should be a whole number"),
        ("llama", {"hidden_size": None}, "does not say hidden_size"),
        ("llama", {"model_type": ["llama"]}, "holds a model of type"),
    ],
)
def test_settings_of_another_type_are_named_with_their_file(
    tmp_path, make_tiny, kind, changes, message
):
    to_huggingface(make_tiny(kind), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        from_huggingface(tmp_path)


def test_settings_that_are_null_are_as_if_left_out(tmp_path, make_tiny):
    model = make_tiny("llama")
    to_huggingface(model, tmp_path)
    nulls = dict.fromkeys(["rope_parameters", "rope_scaling", "head_dim", "hidden_act"])
    change_config(tmp_path, **nulls, **dict.fromkeys(["rope_theta", "attention_bias"]))
    ids = np.arange(9)[None]
    np.testing.assert_array_equal(from_huggingface(tmp_path)(ids).array, model(ids).array)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ],
)
def test_what_newer_llamas_do_otherwise_is_refused(tmp_path, make_tiny, changes, message):
    to_huggingface(make_tiny("llama"), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"do not have this model's {message}"):
        from_huggingface(tmp_path)


def test_a_config_that_is_nested_for_ever_is_named(tmp_path, make_tiny):
    to_huggingface(make_tiny(), tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        from_huggingface(tmp_path)


# ---- More than one file, and fewer bits ----


def test_weights_are_written_in_several_files_and_read_again(tmp_path, make_tiny):
    model = make_tiny("llama", tied_head=False)
    to_huggingface(model, tmp_path)
    weights = {n: p.numpy() for n, p in model.named_parameters()}
    weights = {theirs: piece.of(weights) for theirs, piece in pieces(model.config).items()}
    largest = 4 * 16 * 64  # a matrix of an MLP
    write_in_folder(tmp_path, weights, "float32", largest)
    names = sorted(path.name for path in tmp_path.glob("model*"))
    assert names[-1] == "model.safetensors.index.json"
    assert names[0] == f"model-00001-of-{len(names) - 1:05}.safetensors"
    sizes = [sum(e.nbytes for e in load_file(tmp_path / name).values()) for name in names[:-1]]
    assert max(sizes) <= largest
    assert json.loads((tmp_path / names[-1]).read_text())["metadata"] == {"total_size": sum(sizes)}
    np.testing.assert_array_equal(from_huggingface(tmp_path)(IDS).array, model(IDS).array)
    to_huggingface(model, tmp_path)  # in one file again, and no other is left
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "mistral", "olmo2"])
def test_bfloat16_is_half_the_size_and_the_nearest_number(tmp_path, make_tiny, kind):
    model = make_tiny(kind)
    to_huggingface(model, tmp_path / "whole")
    to_huggingface(model, tmp_path / "half", dtype="bfloat16")
    whole, half = ((tmp_path / n / "model.safetensors").stat().st_size for n in ("whole", "half"))
    assert half < 0.7 * whole  # names and shapes are as long
    assert read_json(tmp_path / "half", "config")["dtype"] == "bfloat16"
    again = from_huggingface(tmp_path / "half")
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        nearest = theirs.numpy().astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(ours.numpy(), nearest)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'q"):
        to_huggingface(model, tmp_path, dtype="q8")


def test_what_a_folder_says_of_texts_is_written_again(tmp_path, make_tiny):
    specials = {"<|begin|>": 0, "<|eot|>": 1, "<|end|>": 2}
    model = make_tiny("llama")
    model.end_ids, model.begin_id, model.chat_template = (2, 1), 0, "{{ messages }}"
    to_huggingface(model, tmp_path, Tokeniser(3, specials))
    found = read_json(tmp_path, "tokenizer_config")
    assert (found["bos_token"], found["eos_token"]) == ("<|begin|>", "<|end|>")
    assert found["chat_template"] == "{{ messages }}"
    assert read_json(tmp_path, "config")["eos_token_id"] == [2, 1]
    for again in (from_huggingface(tmp_path), quantise(from_huggingface(tmp_path))):
        assert (again.end_ids, again.begin_id) == ((2, 1), 0)
        assert again.chat_template == "{{ messages }}"
    (tmp_path / "chat_template.jinja").write_text("newer")
    assert from_huggingface(tmp_path).chat_template == "newer"


def test_a_card_says_what_is_known_and_no_more(make_tiny):
    found = Evaluation(1.5, 4.48, 0.71, 99, margin=0.25, bits_margin=0.1)
    data = {"source": {"name": "tales", "sha256": "ab" * 32}, "tokeniser": "cd" * 32}
    data["train"] = {"n_tokens": 1234, "n_documents": 5, "n_bytes": 9}
    card = model_card(
        *(make_tiny(), "my_model"),
        data=data,
        recipe=TrainingConfig(steps=7),
        evaluation=found,
        licence="Apache-2.0",
        command="train-gpt2 --data tales",
    )
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in (
        *("license: apache-2.0", "# my_model", f"- sha256: {'ab' * 32}", "- steps: 7"),
        *("- train: 1,234 tokens, 5 documents", "- loss: 1.5000 ± 0.2500 nats a token"),
        *("- 0.7100 ± 0.1000 bits per byte", "    train-gpt2 --data tales"),
    ):
        assert f"\n{line}\n" in card
    bare = model_card(make_tiny(), "bare")
    assert "Not stated" in bare
    assert "license" not in bare
    assert "Measured" not in bare
