"""Whole training steps on a GPU: the CPU's losses, none of the CPU's kernels, the same bits twice.

Where there is no GPU the emulated one executes every kernel, instruction by instruction; models are
tiny there.
"""

import os
import re
import sys
from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
from small_runs import Stream, losses_in, text, weights_in

from tricycle_autograd import nvrtc
from tricycle_autograd.devices import move
from tricycle_autograd.machine_code import Compiled
from tricycle_autograd.testing import gpu_is_there
from tricycle_autograd.testing_device import EmulatedArray, Function
from tricycle_autograd.testing_streams import emulated_gpu
from tricycle_gpt import GPT, GPTConfig, TrainingConfig, generate, train
from tricycle_gpt.runs.checkpoint import load_newest_checkpoint
from tricycle_gpt.runs.diagnosis import first_bad_operation
from tricycle_gpt.runs.micro_steps import MicroSteps
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_nn import gradient_norm
from tricycle_nn.clipping import scale_for_norm

pytestmark = [
    pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed"),
    pytest.mark.slow,
]

LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"
VOCABULARY, WINDOW = 37, 12
SIZES = {
    "vocab_size": VOCABULARY,
    "context_window": 2 * WINDOW,
    "embedding_dim": 32,
    "n_layers": 2 if LONG else 1,
    "n_heads": 2,
    "dropout": 0.1 if LONG else 0.0,
}
BLOCKS = {
    "gpt2": {"block": "gpt2"},
    "llama": {"block": "llama", "n_key_value_heads": 1, "qk_norm": True, "hidden_dim": 40},
}
CASES = [*product(BLOCKS, ("adamw", "muon"))]
STEPS, SOON, BATCHES = (5, 5, 2) if LONG else (5, 1, 1)
COPIES = ("asarray", "concatenate", "zeros_like")  # what cupy may do to bfloat16 numbers


def model_of(block, device="cpu", dtype=None):
    config = GPTConfig(**SIZES, **BLOCKS[block])
    return GPT(config, rng=np.random.default_rng(0)).to(device, dtype)


def batches(step, n):
    """Some batches of a step: lines that count up, from anywhere."""
    rng = np.random.default_rng(step)
    starts = rng.integers(0, VOCABULARY, (n, 2, 1))
    ids = (starts + np.arange(WINDOW + 1)) % VOCABULARY
    return [(each[:, :-1], each[:, 1:]) for each in ids]


def trained(model, optimiser, steps, n_batches):
    """The loss of each step, the gradient's length in each, and the weights' bytes after each."""
    recipe = TrainingConfig(steps=STEPS, learning_rate=5e-3, optimiser=optimiser)
    moved_by = make_optimiser(model, recipe)
    losses, norms, weights = [], [], []
    for step in range(steps):
        parts = [model.loss(*batch) / n_batches for batch in batches(step, n_batches)]
        for part in parts:
            part.backward()
        norms.append(gradient_norm(model.parameters()))
        moved_by.step(scale_for_norm(norms[-1], 1.0))
        moved_by.zero_grad()
        losses.append(sum(part.item() for part in parts))
        weights.append([move(p.array, "cpu").tobytes() for p in model.parameters()])
    return losses, norms, weights


@pytest.fixture
def gpu():
    """Makes sure that there is a "cuda"."""
    with nullcontext() if gpu_is_there() else emulated_gpu():
        yield


@pytest.fixture
def alone(monkeypatch):
    """Nothing may run but kernels of our GPU's: none of the CPU's, no arithmetic of cupy's on
    bfloat16, which it knows in part."""

    def refuse(kernel, *_):
        raise AssertionError(f"a kernel of the CPU's was called: {kernel}")

    def checked(function):
        def call(self, *args, **options):
            name = getattr(self, "name", None) or args[0].__name__
            halves = [x for x in args if isinstance(x, np.ndarray) and x.dtype.kind == "V"]
            assert not halves or name in COPIES, f"{name} of bfloat16"
            return function(self, *args, **options)

        return call

    monkeypatch.setattr(Compiled, "__call__", refuse)
    monkeypatch.setattr(EmulatedArray, "__array_ufunc__", checked(EmulatedArray.__array_ufunc__))
    monkeypatch.setattr(Function, "__call__", checked(Function.__call__))


@pytest.mark.parametrize(("block", "optimiser"), CASES)
def test_steps_in_bfloat16_have_the_cpus_losses_and_equal_bits(block, optimiser, gpu, request):
    losses, norms, _ = trained(model_of(block), optimiser, STEPS, BATCHES)
    request.getfixturevalue("alone")
    model = model_of(block, "cuda", "bfloat16")
    found = trained(model, optimiser, STEPS, BATCHES)
    assert {p.dtype.name for p in model.parameters()} == {"bfloat16"}
    np.testing.assert_allclose(found[0], losses, rtol=0, atol=5e-3)
    np.testing.assert_allclose(found[1], norms, rtol=0.02)
    assert found[0][-1] < found[0][0]
    again = trained(model_of(block, "cuda", "bfloat16"), optimiser, SOON, BATCHES)
    assert again == tuple(of_a_step[:SOON] for of_a_step in found)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_step_in_float32_is_the_cpus(block, gpu):
    on_cpu = trained(model_of(block), "adamw", 1, 2)
    on_gpu = trained(model_of(block, "cuda"), "adamw", 1, 2)
    np.testing.assert_allclose(on_gpu[:2], on_cpu[:2], rtol=1e-5)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dtype", ["bfloat16", *["float32"] * LONG])
def test_the_text_that_is_written_is_the_cpus(block, dtype, gpu, request):
    model = model_of(block)
    trained(model, "adamw", 80, 1)  # until it counts
    prompt, n = [5, 6, 7], 4
    text = [*generate(model, prompt, n, temperature=0)]
    request.getfixturevalue("alone")
    model.to("cuda", dtype)
    assert [*generate(model, prompt, n, temperature=0)] == text == [8, 9, 10, 11]


@pytest.fixture
def strict(monkeypatch):
    """As with cupy: an array on the GPU never becomes one of numpy's unless it is moved there."""
    asarray = np.asarray

    def refusing(array, *args, **options):
        ours = sys._getframe(1).f_globals["__name__"].startswith("tricycle_gpt")
        if ours and isinstance(array, EmulatedArray):
            raise TypeError("Implicit conversion to a NumPy array is not allowed")
        return asarray(array, *args, **options)

    monkeypatch.setattr(np, "asarray", refusing)


def test_the_operation_where_a_bad_step_broke_is_found_on_a_gpu(gpu, alone, strict):
    model = model_of("gpt2", "cuda", "bfloat16")
    bias, weight = model.blocks[0].mlp.up.bias, model.blocks[0].mlp.down.weight
    assert "did not repeat itself" in first_bad_operation(model, batches(0, 1), 0)
    bias.array[...] = move(np.full(bias.shape, 3e38).astype(bias.dtype), "cuda")
    weight.array[...] = move(np.full(weight.shape, 9).astype(weight.dtype), "cuda")
    found = first_bad_operation(model, batches(0, 1), 0)
    assert re.match(r"the result of .* in blocks.0.mlp.*: .* are not finite, shape", found)
    bias.array[...] = move(np.full(bias.shape, np.nan).astype(bias.dtype), "cuda")
    assert first_bad_operation(model, batches(0, 1), 0) == (
        "the weights blocks.0.mlp.up.bias are not finite themselves"
    )


def run_captured(folder, graphs, block, **changes):
    """Three steps of two batches each; what they left."""
    config = GPTConfig(**{**SIZES, "dropout": 0.1}, **BLOCKS[block])
    model = GPT(config, rng=np.random.default_rng(0)).to("cuda", "bfloat16")
    recipe = TrainingConfig(
        steps=3, batch_size=1, micro_batches=2, learning_rate=3e-3, graphs=graphs, **changes
    )
    train(model, Stream(text(), batch_size=1, length=WINDOW), recipe, folder)
    return weights_in(folder), losses_in(folder)


@pytest.mark.parametrize("block", ["gpt2", *["llama"] * LONG])
def test_a_captured_run_is_a_plain_one_to_the_bit(block, gpu, tmp_path, monkeypatch):
    """Dropout's masks, and gradients that are added up, included."""
    plain = run_captured(tmp_path / "plain", False, block)
    made, loss = [], GPT.loss_of_placed
    monkeypatch.setattr(GPT, "loss_of_placed", lambda *given: made.append(1) or loss(*given))
    assert run_captured(tmp_path / "captured", True, block) == plain
    # Overwriting gradients and adding to them: each plainly, and for the capture; two are replayed.
    assert len(made) == 4


def test_a_batch_in_which_other_tokens_count_is_not_taken_for_the_one_before(gpu, monkeypatch):
    """Nor one of another shape; of a model whose loss is what is told of its batch."""

    def plain(model, ids, targets):
        return told(model, int((targets != -100).sum()), ids.shape)

    def placed(model, ids, positions, targets):
        return told(model, targets.n, ids.shape)

    def told(model, count, shape):
        return (model.norm.weight * (100 * count + shape[1])).sum()

    monkeypatch.setattr(GPT, "loss", plain)
    monkeypatch.setattr(GPT, "loss_of_placed", placed)
    found = {}
    for captured in (False, True):
        model = model_of("gpt2", "cuda")
        make_optimiser(model, TrainingConfig())  # gradients are in its arenas
        steps, losses = MicroSteps(model, captured), []
        for length, left_out in 4 * [(6, 0), (6, 2), (5, 0)]:
            ids = np.arange(length + 1)[None]
            targets = ids[:, 1:].copy()
            targets[:, :left_out] = -100
            losses.append(steps(ids[:, :-1], targets, 2.0).item())
        found[captured] = losses, model.norm.weight.grad.tolist()
        assert [len(step.graphs) for step in steps.steps.values()] == [2, 1] * captured
    assert found[True] == found[False]
    width = SIZES["embedding_dim"]
    assert losses == 4 * [606 * width / 2, 406 * width / 2, 505 * width / 2]


class EndsAfter(Stream):
    """Batches that end after some of them."""

    def __init__(self, n):
        super().__init__(text(), batch_size=2, length=WINDOW)
        self.n = n

    def __iter__(self):
        for _, batch in zip(range(self.n), super().__iter__(), strict=False):
            yield batch


def train_some(folder, n, device, dtype):
    """Two steps of three, and a checkpoint; or, where one is there, those that are left."""
    recipe = TrainingConfig(steps=3, batch_size=2, learning_rate=3e-3, evaluate_every=0)
    train(model_of("gpt2", device, dtype), EndsAfter(n), recipe, folder, resume=True)
    return load_newest_checkpoint(folder / "checkpoints")


@pytest.mark.parametrize("places", [("cuda", "cpu"), ("cpu", "cuda")], ids=" then ".join)
def test_a_run_goes_on_on_the_other_device(places, gpu, tmp_path, capsys):
    """A checkpoint holds float32 numbers, masters where there are any."""
    dtypes = {"cpu": "float32", "cuda": "bfloat16"}
    first, then = [(place, dtypes[place]) for place in places]
    half_way = train_some(tmp_path / "run", 2, *first)
    assert half_way.step == 2
    assert {array.dtype.name for array in half_way.parameters.values()} == {"float32"}
    assert any(name.endswith(".master") for name in half_way.optimiser) == (first[0] == "cuda")
    assert half_way.state["device"] == first[0]
    ended = train_some(tmp_path / "run", 1, *then)
    numbers = {"cpu": "on the processor, in float32", "cuda": "on a GPU, in bfloat16"}
    told = f"the run was {numbers[first[0]]}, and goes on {numbers[then[0]]}"
    assert capsys.readouterr().err.count(told) == 1
    train_some(tmp_path / "whole", 3, "cpu", "float32")
    assert ended.step == 3
    found, wanted = losses_in(tmp_path / "run"), losses_in(tmp_path / "whole")
    for row, other in zip(found, wanted, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=5e-3)
    for name, array in ended.parameters.items():
        before = half_way.parameters[name]
        assert np.abs(array - before).max() < 0.01  # it went on from there, by one step
