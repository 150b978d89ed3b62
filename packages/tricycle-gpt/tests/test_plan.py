"""A plan: counted by hand, held to what a run really takes, and honest about what cannot be."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tricycle_gpt import GPT, GPTConfig, TrainingConfig
from tricycle_gpt.runs.distributed import Alone
from tricycle_gpt.runs.flops import flops_per_token
from tricycle_gpt.runs.memory_readers import free_bytes
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.plan import compare_with_plan, plan

pytestmark = pytest.mark.slow  # it starts many processes

SMALL = GPTConfig(vocab_size=50, context_window=16, embedding_dim=16, n_layers=2, n_heads=2)


def test_counts_are_those_of_the_model_and_the_recipe():
    found = plan(SMALL, TrainingConfig(steps=100, batch_size=4, micro_batches=3))
    assert found.parameters == GPT(SMALL, rng=np.random.default_rng(0)).n_parameters()
    assert found.non_embedding == found.parameters - (50 + 16) * 16
    assert found.tokens_per_step == 4 * 3 * 16
    assert found.tokens == 100 * 192
    assert found.chinchilla == found.tokens / found.parameters
    assert (found.batch_size, found.micro_batches) == (4, 3)
    weights = found.non_embedding + 50 * 16  # the head multiplies, the position table does not
    assert found.flops == found.tokens * (6 * weights + 12 * 2 * 16 * 16)
    assert "--training.batch-size 4 --training.micro-batches 3" in str(found)


def test_a_batch_that_does_not_fit_is_cut_for_the_same_step():
    config = GPTConfig(vocab_size=500, context_window=128, embedding_dim=64, n_layers=2, n_heads=2)
    training = TrainingConfig(steps=10, batch_size=64, micro_batches=2)
    plan(config, TrainingConfig(steps=10, batch_size=8))  # loads the kernels, which take room too
    whole = plan(config, TrainingConfig(steps=10, batch_size=8))
    less = plan(config, training, available=whole.memory + 10_000_000)
    assert less.batch_size < 64
    assert less.batch_size * less.micro_batches == 128
    assert less.memory <= less.available


class Ranks(Alone):
    """So many of us, each on a machine of its own."""

    def __init__(self, size):
        super().__init__()
        self.size = size


def test_ranks_share_a_batch_and_its_plan_is_for_all_of_them():
    asked = TrainingConfig(steps=10, batch_size=4, micro_batches=3)
    found = plan(SMALL, asked, communicator=Ranks(2))  # 2 batches of 3 windows each
    assert (found.batch_size, found.micro_batches, found.tokens_per_step) == (4, 3, 4 * 3 * 16)
    found.refuse_what_does_not_fit(asked)
    found = plan(SMALL, asked, communicator=Ranks(12))  # 1 window each, which is not 4 too many
    found.refuse_what_does_not_fit(asked)
    # Of a batch that does not fit, the part that does is no more than one rank's.
    config = GPTConfig(vocab_size=500, context_window=128, embedding_dim=64, n_layers=2, n_heads=2)
    whole = plan(config, TrainingConfig(steps=10, batch_size=8))
    asked, room = TrainingConfig(steps=10, batch_size=64), whole.memory + 10_000_000
    less = plan(config, asked, available=room, communicator=Ranks(2))
    assert less.batch_size < 32
    assert less.batch_size * less.micro_batches == 64
    with pytest.raises(ValueError, match="--training.batch-size"):
        less.refuse_what_does_not_fit(asked)
    asked = TrainingConfig(steps=10, batch_size=4, micro_batches=3)
    with pytest.raises(ValueError, match="which 5 ranks cannot share evenly"):
        plan(SMALL, asked, communicator=Ranks(5))


def test_what_cannot_fit_is_refused():
    with pytest.raises(ValueError, match=r"needs .* GB to be trained.*: choose fewer layers"):
        plan(SMALL, TrainingConfig(), available=1000)


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_the_limit_of_a_job_counts_but_not_what_it_has_read_from_files(tmp_path):
    own, job = tmp_path / "own", tmp_path / "job_12"
    own.write_text("0::/job_12\n")
    job.mkdir()
    without = free_bytes(tmp_path, own)
    assert without > 50_000_000  # this machine's
    for name, content in (
        ("max", "30000000\n"),
        ("current", "29000000\n"),
        ("stat", "anon 9000000\ninactive_file 19000000\nactive_file 1000000\n"),
    ):
        (job / f"memory.{name}").write_text(content)
    assert free_bytes(tmp_path, own) == 20_000_000
    (job / "memory.max").write_text("max\n")
    assert free_bytes(tmp_path, own) > 50_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_the_limits_of_older_control_groups_count_too(tmp_path):
    own, job = tmp_path / "own", tmp_path / "memory" / "job_12"
    own.write_text("9:memory:/job_12\n4:cpu,cpuacct:/elsewhere\n")
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text("30000000\n")
    (job / "memory.usage_in_bytes").write_text("29000000\n")
    (job / "memory.stat").write_text("cache 19000000\ntotal_inactive_file 19000000\n")
    assert free_bytes(tmp_path, own) == 20_000_000
    (job / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # no limit
    assert free_bytes(tmp_path, own) > 50_000_000


def test_the_plan_is_laid_beside_what_the_run_took(tmp_path):
    planned = plan(SMALL, TrainingConfig(steps=2, batch_size=4))  # 64 tokens a step
    rows = [{"step": 0, "tokens_per_second": 32}, {"step": 1, "tokens_per_second": 64}, {"step": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    compare_with_plan(tmp_path, planned)
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["planned"]["seconds"] == planned.seconds
    assert (found["took"]["steps"], found["took"]["seconds"]) == (2, 3.0)
    assert sys.platform != "linux" or found["took"]["memory"] > 10_000_000


def test_the_flops_of_a_token_are_counted_by_hand():
    llama = GPTConfig(50, 16, 16, n_layers=2, n_heads=2, block="llama", tied_head=False)
    model = GPT(llama, rng=np.random.default_rng(0))
    looked_up = 50 * 16
    assert flops_per_token(model) == 6 * (model.n_parameters() - looked_up) + 12 * 2 * 16 * 16


def test_the_optimisers_first_step_which_loads_its_kernels_is_not_timed(monkeypatch):
    waits = [0.5, 0.0]  # seconds, at each of its steps

    def slow_at_first(model, training):
        optimiser = make_optimiser(model, training)
        move = optimiser.step

        def step(**options):
            time.sleep(waits.pop(0))
            move(**options)

        optimiser.step = step
        return optimiser

    monkeypatch.setattr(sys.modules["tricycle_gpt.runs.plan"], "make_optimiser", slow_at_first)
    found = plan(SMALL, TrainingConfig(steps=10, batch_size=4))
    assert waits == []
    assert found.seconds < 10 * 0.5


PROGRAM = """
import sys, tempfile
import numpy as np
from tricycle_gpt import GPT, GPTConfig, TrainingConfig, train
from tricycle_gpt.runs.plan import plan
config = GPTConfig(vocab_size=4096, context_window=128, embedding_dim=256, n_layers=4, n_heads=4)
training = TrainingConfig(steps=3, batch_size=16, checkpoint_every=1, warmup=0)
if sys.argv[1] == "plan":
    print(plan(config, training).memory)
else:
    class Stream:
        position = (0, 0)
        def __iter__(self):
            while True:
                ids = np.random.default_rng(0).integers(0, 4096, (16, 129))
                yield ids[:, :-1], ids[:, 1:]
    with tempfile.TemporaryDirectory() as folder:
        train(GPT(config, rng=np.random.default_rng(0)), Stream(), training, folder)
    # Not getrusage: that begins with what the process which started this one had.
    status = open("/proc/self/status").read()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_memory_of_a_run_is_planned_to_15_percent():
    def answer(what):
        words = [sys.executable, "-c", PROGRAM, what]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
        return int(done.stdout)

    assert answer("plan") == pytest.approx(answer("run"), rel=0.15)
