"""Where a run works, and that plans, sizes and mfu are of the device where it does."""

import json

import numpy as np
import pytest

from tricycle_autograd import gpu, nvrtc
from tricycle_autograd.testing_streams import emulated_gpu
from tricycle_gpt import GPT, GPTConfig, TrainingConfig
from tricycle_gpt.runs import placing, run_folder, sizing, trial_steps
from tricycle_gpt.runs.memory_readers import memory_of, resident_bytes
from tricycle_gpt.runs.optimiser import least_bytes_per_parameter
from tricycle_gpt.runs.placing import place, settle
from tricycle_gpt.runs.plan import compare_with_plan, plan

SMALL = GPTConfig(vocab_size=50, context_window=16, embedding_dim=16, n_layers=1, n_heads=2)
MB = 1 << 20


needs_nvrtc = pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed")


@pytest.fixture
def cupy(monkeypatch):
    """A machine with a GPU, made of numpy, whose libraries are all there."""
    monkeypatch.setattr(gpu, "why_no_nvrtc", lambda: None)
    monkeypatch.setattr(gpu, "why_no_cublaslt", lambda: None)
    with emulated_gpu() as cupy:
        yield cupy


@pytest.fixture
def batches(cupy, monkeypatch):
    """Trial batches that calculate nothing, and take 3 MB of the GPU's memory a window."""

    def run_batch(network, windows):
        assert network.parameters()[0].device == "cuda"
        pool = cupy.cuda.pool
        pool.unused = max(pool.unused, 3 * MB * windows)
        pool.total = 100 * MB + pool.unused

    monkeypatch.setattr(trial_steps, "run_batch", run_batch)
    monkeypatch.setattr(trial_steps, "time_of_move", lambda network, optimiser: 1e-3)
    return cupy


def model():
    return GPT(SMALL, rng=np.random.default_rng(0))


# ---- Where ----


def test_a_gpu_is_named_and_gets_the_model_in_bfloat16(cupy, capsys):
    device = settle("auto")
    assert device == "cuda"
    assert capsys.readouterr().err.startswith("working on a GPU made of numpy, 8.6 GB")
    moved = model()
    place(moved, device)
    kinds = {(parameter.device, parameter.dtype.name) for parameter in moved.parameters()}
    assert kinds == {("cuda", "bfloat16")}


def test_a_processor_is_not_spoken_of_and_the_model_stays(capsys):
    assert settle("cpu") == "cpu"
    assert capsys.readouterr() == ("", "")
    stays = model()
    arrays = [parameter.array for parameter in stays.parameters()]
    place(stays, "cpu")
    assert all(p.array is a for p, a in zip(stays.parameters(), arrays, strict=True))


def test_ranks_of_one_machine_take_its_gpus_in_turn(cupy, capsys):
    cupy.cuda.runtime.gpus = 4
    taken = []
    for place_of_rank in range(6):
        settle("cuda", quietly=True, place=place_of_rank)
        taken.append(cupy.cuda.Device().id)
    assert taken == [0, 1, 2, 3, 0, 1]


def test_other_ranks_settle_quietly(cupy, capsys):
    assert settle("cuda", quietly=True) == "cuda"
    assert capsys.readouterr() == ("", "")


# ---- What it takes there ----


@needs_nvrtc
def test_a_plan_for_a_gpu_is_about_its_memory(batches):
    batches.cuda.runtime.free, batches.cuda.pool.total = 200 * MB, 0
    found = plan(SMALL, TrainingConfig(steps=5, batch_size=4), besides=10**12, device="cuda")
    assert found.device == "cuda"
    assert found.memory == (100 + 3 * 4) * MB  # model and optimiser, and four windows
    assert found.batch_size == 4
    assert found.available == 200 * MB


@needs_nvrtc
def test_a_batch_that_does_not_fit_on_the_gpu_is_cut(batches):
    batches.cuda.runtime.free, batches.cuda.pool.total = 106 * MB, 0
    found = plan(SMALL, TrainingConfig(steps=5, batch_size=8), device="cuda")
    assert (found.batch_size, found.micro_batches) == (2, 4)
    with pytest.raises(ValueError, match="--training.batch-size 2 --training.micro-batches 4"):
        found.refuse_what_does_not_fit(TrainingConfig(steps=5, batch_size=8))


@needs_nvrtc
def test_the_memory_that_was_taken_is_the_gpus_too(batches, tmp_path):
    found = plan(SMALL, TrainingConfig(steps=5, batch_size=4), device="cuda")
    batches.cuda.pool.total = 123 * MB
    (tmp_path / "metrics.jsonl").write_text("")
    compare_with_plan(tmp_path, found)
    assert json.loads((tmp_path / "plan.json").read_text())["took"]["memory"] == 123 * MB


def test_a_gpu_holds_no_copies_for_checkpoints():
    adamw = TrainingConfig(optimiser="adamw")
    assert least_bytes_per_parameter(adamw) == (4 + 4 + 8) + (4 + 8)
    assert least_bytes_per_parameter(adamw, "cuda") == 2 + 2 + 4 + 8


def test_memory_is_asked_of_the_device(cupy):
    cupy.cuda.pool.total = 7
    assert memory_of("cuda").held() == 7
    assert memory_of("cuda").free() == cupy.cuda.runtime.free
    assert memory_of("cpu").held is resident_bytes


def test_a_size_is_chosen_with_batches_for_a_gpu(monkeypatch):
    asked = []

    def planned(model, training, besides, device):
        asked.append((training.batch_size * model.context_window, device))
        raise ValueError("enough")

    monkeypatch.setattr(sizing, "plan", planned)
    for device in ("cpu", "cuda"):
        with pytest.raises(ValueError, match="enough"):
            sizing.choose_size(50, None, 1, device=device)
    assert asked == [(2048, "cpu"), (65536, "cuda")]


def test_mfu_is_a_share_of_the_devices_own_products(cupy, monkeypatch, tmp_path):
    monkeypatch.setattr(placing, "gpu_roof", lambda: (7e14, 3e12))
    monkeypatch.setattr(placing, "measured_peak_flops", lambda seconds: 1e11)
    made = []

    class Tracker:
        def __init__(self, name, **options):
            made.append(options["peak_flops"])

        def data(self, *what):
            pass

        def file(self, path):
            pass

    monkeypatch.setattr(run_folder, "MLflowTracker", Tracker)
    for device in ("cpu", "cuda"):
        ours = model()
        place(ours, device)
        run_folder.follow(tmp_path, ours, "text", "0", {}, ranks=2)
    assert made == [2e11, 14e14]
