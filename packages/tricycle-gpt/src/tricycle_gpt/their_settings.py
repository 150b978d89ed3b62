"""Other programs' config.json: every setting is known, or the model is refused by its name.

A model that differs from ours in one setting opens as well as any other, and writes nonsense that
looks like a bad model.  So a setting counts as one of three:

    used       a family's format reads it
    harmless   it changes nothing that is computed from ids to scores (`HARMLESS`, `FIXED`)
    unknown    then it may matter, and the model is refused, unless it says null

All that is against a model is in one message.
"""

from collections.abc import Mapping
from typing import Any

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.family import FAMILIES, Family, Format, setting

HARMLESS_BY_PURPOSE = {
    "what wrote the file, what reads it, how its numbers are stored": """
        _name_or_path _attn_implementation _commit_hash architectures auto_map dtype
        finetuning_task is_llama_config model_type name_or_path torch_dtype
        transformers_version transformers.js_config unsloth_fixed unsloth_version use_bfloat16
        use_cache""",
    "special tokens, and how text is written": """
        bad_words_ids begin_suppress_tokens bos_token_id decoder_start_token_id diversity_penalty
        do_sample early_stopping encoder_no_repeat_ngram_size eos_token_id
        exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty
        max_length min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
        pad_token_id prefix remove_invalid_values repetition_penalty sep_token_id suppress_tokens
        task_specific_params temperature top_k top_p typical_p unk_token_id""",
    "training, and other tasks than predicting tokens": """
        attention_dropout attn_pdrop embd_pdrop gradient_checkpointing id2label
        label2id output_attentions output_hidden_states output_past output_scores
        predict_special_tokens problem_type return_dict return_dict_in_generate
        summary_activation summary_first_dropout summary_proj_to_labels summary_type
        summary_use_proj tf_legacy_loss torchscript""",
    "how numbers are computed, not which": """
        chunk_size_feed_forward n_ctx reorder_and_upcast_attn""",
}
HARMLESS = frozenset(" ".join(HARMLESS_BY_PURPOSE.values()).split()) | {
    "initializer_range",
    "tokenizer_class",
}
# Looked at here, or where the weights are read.
HAVE_REASONS = ("tie_word_embeddings", "layer_types", "quantization_config")
FIXED: dict[str, tuple[Any, ...]] = {  # what would matter, at the values where it does not
    "add_cross_attention": (False,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "tie_encoder_decoder": (False,),
}
WHY_NOT = {  # kinds of model that are asked for, and what they have that no block of ours has
    "gemma": "norms by 1 + weight, embeddings times the root of the width, GELU gates",
    "gemma2": "soft caps on scores, four norms in a block, windows in every other block",
    "gemma3": "two rotary bases, windows in most blocks, four norms in a block",
    "gemma3_text": "two rotary bases, windows in most blocks, four norms in a block",
    "gpt_neox": "attention and MLP side by side, rotary positions for a part of each head",
    "mixtral": "experts",
    "olmo": "LayerNorm without weights, clipped queries, keys and values",
    "opt": "positions that begin at 2, ReLU",
    "phi": "attention and MLP side by side, rotary positions for a part of each head, LayerNorm",
    "phi3": "queries, keys and values in one matrix, gates and values too, longrope",
    "qwen2_moe": "experts",
    "qwen3_moe": "experts",
}


def our_config(theirs: Mapping[str, Any], where: str) -> GPTConfig:
    """The GPTConfig that their settings mean.

    theirs  names and values, as in config.json
    where   what messages begin with

    Raises ValueError that lists every setting which is missing, of the wrong kind, not known, or
    known not to be done by our blocks.
    """
    family, format_ = _format_named(theirs.get("model_type"), where)
    if missing := [name for name in format_.needed if theirs.get(name) is None]:
        raise ValueError(f"{where} does not say {', '.join(missing)}")
    settings = dict(theirs)
    try:
        for name in format_.needed:
            setting(settings, name, int, None)
        faults = _faults(settings, format_)
        config = None if faults else GPTConfig(block=family.name, **format_.to_ours(settings))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if config is None:
        raise ValueError(f"{where}: our blocks do not have this model's {'; '.join(faults)}")
    return config


def _format_named(kind, where) -> tuple[Family, Format]:
    formats = {f.model_type: (family, f) for family in FAMILIES.values() for f in family.formats}
    if not isinstance(kind, str) or kind not in formats:
        *others, last = formats
        why = f". It has {WHY_NOT[kind]}" if isinstance(kind, str) and kind in WHY_NOT else ""
        raise ValueError(
            f"{where} holds a model of type {kind!r:.80}; {', '.join(others)} and {last} can be "
            f"read{why}"
        )
    return formats[kind]


def _faults(theirs, format_):
    """Everything in their settings that may make a model another than ours would be."""
    known = {*format_.needed, *format_.used, *HAVE_REASONS} | HARMLESS
    fixed = FIXED | format_.fixed
    faults = format_.refused(theirs)
    if theirs.get("quantization_config") is not None:
        faults.append(
            "quantised weights (its config.json has a `quantization_config`; those of the model it "
            "was made from can be read)"
        )
    kinds = theirs.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        faults.append(f"layer_types {theirs['layer_types']!r}"[:80])
    for name, value in theirs.items():
        if value is None or name in known:
            continue
        if name not in fixed:
            faults.append(f"{name}, which is not known ({repr(value)[:60]})")
        elif not any(value == one and type(value) is type(one) for one in fixed[name]):
            faults.append(f"{name} {value!r}"[:80])
    return faults
