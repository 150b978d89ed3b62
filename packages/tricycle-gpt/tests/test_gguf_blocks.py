"""Blocks of numbers in GGUF files: by hand, beside golden blocks, and beside the gguf package."""

import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from tricycle_gpt.gguf_blocks import KINDS, decode, encode

WRITTEN = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]
QUANTISED = [name for name in KINDS if name not in ("F32", "F16", "BF16")]


def half(*numbers):
    return np.array(numbers, "<f2").view(np.uint8)


def test_a_block_of_q8_0_by_hand():
    # d = 0.5, then 32 whole numbers: 0, 1, -2, 127 and zeros.
    q = np.zeros(32, np.int8)
    q[1:4] = 1, -2, 127
    found = decode(np.concatenate([half(0.5), q.view(np.uint8)]), KINDS["Q8_0"])
    assert found[:5].tolist() == [0, 0.5, -1, 63.5, 0]


def test_a_block_of_q4_1_by_hand():
    # d = 2, m = 1; the first byte 0x3f is q = 15 for number 0, and q = 3 for number 16.
    raw = np.concatenate([half(2, 1), np.array([0x3F] + [0] * 15, np.uint8)])
    found = decode(raw, KINDS["Q4_1"])
    assert found[[0, 1, 16]].tolist() == [31, 1, 7]


def test_a_block_of_q5_0_by_hand():
    # d = 1; bit 1 of the fifth bits is set: number 1 is 0 + 16 - 16, all others 0 - 16.
    raw = np.concatenate([half(1), np.array([2, 0, 0, 0] + [0] * 16, np.uint8)])
    assert decode(raw, KINDS["Q5_0"])[:3].tolist() == [-16, 0, -16]


def test_a_block_of_q5_k_by_hand():
    # d = 1, m = 0, first scale 3; number 0 has low bits 2 and a fifth bit: 3 · 18.
    raw = np.zeros(176, np.uint8)
    raw[:4], raw[4], raw[16], raw[48] = half(1, 0), 3, 1, 2
    assert decode(raw, KINDS["Q5_K"])[:2].tolist() == [54, 0]


def test_golden_blocks_are_decoded_bit_for_bit():
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip("TRICYCLE_TEST_DATA is not set: mini/gguf/blocks.npz is looked for there")
    path = Path(os.environ["TRICYCLE_TEST_DATA"]) / "mini" / "gguf" / "blocks.npz"
    with np.load(path) as golden:
        names = [name.removesuffix("/raw") for name in golden if name.endswith("/raw")]
        assert len(names) == 9
        for name in names:
            found = decode(golden[f"{name}/raw"].reshape(-1), KINDS[name])
            assert found.tobytes() == golden[f"{name}/values"].tobytes(), name


@pytest.mark.parametrize("name", QUANTISED)
def test_blocks_of_any_bytes_are_decoded_as_the_gguf_package_does(name):
    raw = np.random.default_rng(1).integers(0, 256, (999, KINDS[name].bytes), np.uint8)
    with np.errstate(all="ignore"):
        expected = dequantize(raw, GGMLQuantizationType[name]).reshape(-1)
    np.testing.assert_array_equal(decode(raw.reshape(-1), KINDS[name]), expected)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_numbers_are_written_as_the_gguf_package_does(name):
    numbers = np.random.default_rng(2).standard_normal((40, 320)).astype(np.float32)
    numbers[0] = 0
    numbers[1] = np.arange(320) % 5 - 2  # halves on the way
    with np.errstate(all="ignore"):
        expected = quantize(numbers, GGMLQuantizationType[name])
    assert encode(numbers.reshape(-1), KINDS[name]).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "largest_error"),
    [("F32", 0), ("F16", 2e-3), ("BF16", 0.016), ("Q8_0", 0.02), ("Q4_0", 0.6)],
)
def test_what_is_written_is_read_again_within_the_types_precision(name, largest_error):
    numbers = np.random.default_rng(3).standard_normal(64 * 32).astype(np.float32)
    found = decode(encode(numbers, KINDS[name]), KINDS[name])
    assert np.abs(found - numbers).max() <= largest_error
    # Numbers that were read can be written again without any loss.
    assert decode(encode(found, KINDS[name]), KINDS[name]).tobytes() == found.tobytes()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in WRITTEN])
def test_types_that_are_only_read_are_not_written(name):
    with pytest.raises(ValueError, match="not written in this type, only read"):
        encode(np.zeros(256, np.float32), KINDS[name])
