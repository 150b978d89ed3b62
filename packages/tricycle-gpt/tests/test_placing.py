"""Where a run works, and that plans, sizes and mfu are of the device where it does."""

import json
import sys

import numpy as np
import pytest

from tricycle_autograd import gpu, nvrtc
from tricycle_autograd.gpu import NoGPUError
from tricycle_autograd.testing_streams import emulated_gpu
from tricycle_gpt import GPT, GPTConfig, TrainingConfig
from tricycle_gpt.runs import out_of_memory, placing, run_folder, sizing, trial_steps
from tricycle_gpt.runs.checkpoint import save_checkpoint
from tricycle_gpt.runs.distributed import Alone
from tricycle_gpt.runs.memory_readers import memory_of, resident_bytes
from tricycle_gpt.runs.optimiser import OPTIMISERS, least_bytes_per_parameter, make_optimiser
from tricycle_gpt.runs.out_of_memory import batch_that_fits
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


class Ranks(Alone):
    """One of several ranks of a machine; what holds on the others is given."""

    def __init__(self, rank, size, elsewhere=False):
        super().__init__()
        self.rank, self.size, self.place, self.neighbours = rank, size, rank, size
        self.elsewhere = elsewhere

    def any(self, condition):
        return condition or self.elsewhere


@pytest.fixture
def nccl(monkeypatch):
    monkeypatch.setattr(placing, "nccl_library", lambda: None)


def test_ranks_of_one_machine_take_a_gpu_each_and_the_first_one_tells(cupy, nccl, capsys):
    cupy.cuda.runtime.gpus = 4
    taken = []
    for rank in range(4):
        assert settle("cuda", Ranks(rank, 4)) == "cuda"
        taken.append(cupy.cuda.Device().id)
    assert taken == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("working on") == 1


def test_more_ranks_than_gpus_are_refused_before_anything_is_done(cupy, nccl, capsys):
    cupy.cuda.runtime.gpus = 2
    wanted = r"started 3 ranks on a machine with 2 GPU\(s\), and each .* start 2 there"
    with pytest.raises(NoGPUError, match=wanted):
        settle("cuda", Ranks(0, 3))
    assert settle("auto", Ranks(0, 3)) == "cpu"
    assert "working on the processor: mpiexec started 3 ranks" in capsys.readouterr().err


def test_ranks_without_nccl_are_told_what_to_install(cupy, monkeypatch):
    def missing():
        raise ImportError("install it with the extra nccl13")

    monkeypatch.setattr(placing, "nccl_library", missing)
    cupy.cuda.runtime.gpus = 2
    with pytest.raises(NoGPUError, match=r"extra nccl13 \(--device cpu works without GPUs\)"):
        settle("cuda", Ranks(0, 2))
    assert settle("cuda", Ranks(0, 1)) == "cuda"


def test_all_ranks_work_on_processors_where_one_has_no_gpu(cupy, nccl, capsys):
    cupy.cuda.runtime.gpus = 2
    assert settle("auto", Ranks(1, 2, elsewhere=True)) == "cpu"
    assert capsys.readouterr() == ("", "")
    assert settle("auto", Ranks(0, 2, elsewhere=True)) == "cpu"
    assert capsys.readouterr().err == "working on the processor: another rank has none\n"


def test_auto_goes_on_on_the_processor_and_says_why_in_one_line(cupy, capsys):
    cupy.cuda.runtime.refusal = RuntimeError("cudaErrorDevicesUnavailable: busy")
    assert settle("auto") == "cpu"
    said = capsys.readouterr().err
    assert said.startswith("working on the processor: the GPU refuses to work (cudaErrorDevices")
    assert said.count("\n") == 1
    cupy.cuda.runtime.refusal, cupy.cuda.runtime.driver = None, 12000
    assert settle("auto") == "cpu"
    assert "the driver knows CUDA 12.0" in capsys.readouterr().err


def test_where_nobody_expects_a_gpu_auto_says_nothing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert settle("auto") == "cpu"
    assert capsys.readouterr() == ("", "")


# ---- A run that goes on ----


def test_a_gpus_run_goes_on_on_the_processor_only_if_told_to(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert settle("auto", resumed=tmp_path) == "cpu"  # nothing is there to go on with
    some = {"w": np.ones(2, np.float32)}
    save_checkpoint(tmp_path / "checkpoints", 3, some, some, {"device": "cuda"})
    with pytest.raises(
        NoGPUError, match=r"was on a GPU, and none works here: cupy is not"
    ) as error:
        settle("auto", resumed=tmp_path)
    assert "--device cpu goes on on the processor" in str(error.value)
    assert settle("cpu", resumed=tmp_path) == "cpu"


def test_a_gpus_run_goes_on_on_a_gpu(cupy, tmp_path):
    some = {"w": np.ones(2, np.float32)}
    save_checkpoint(tmp_path / "checkpoints", 3, some, some, {"device": "cuda"})
    assert settle("auto", resumed=tmp_path) == "cuda"


# ---- Memory ----


def test_the_batch_that_fits_is_one_that_fits_the_gpu(batches, monkeypatch):
    monkeypatch.setattr(out_of_memory, "run_batch", lambda network, windows: None)
    # Two windows were tried, whose 6 MB the pool keeps.
    batches.cuda.runtime.free, batches.cuda.pool.total = 4 * MB, 0
    moved = model()
    place(moved, "cuda")
    assert batch_that_fits(moved, 8) == 2  # 3 MB a window, whatever the processor has


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
    assert least_bytes_per_parameter(adamw, "cuda") == 2 + 4 + 4 + 8


@pytest.mark.parametrize("name", OPTIMISERS)
def test_no_less_is_taken_for_a_parameter_on_a_gpu(name, cupy):
    """Counted in the arrays that there are, which are rounded up to cache lines."""
    recipe, moved = TrainingConfig(optimiser=name), model()
    place(moved, "cuda")
    groups = make_optimiser(moved, recipe).groups
    arrays = [array for group in groups for array in group.moments.values()]
    arrays += [array for g in groups for array in (g.arena.values, g.arena.gradients)]
    taken = sum(array.nbytes for array in arrays)
    assert taken - least_bytes_per_parameter(recipe, "cuda") * moved.n_parameters() >= 0


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
