"""A step dealt out to ranks is the step that one rank makes."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import TEXT, ends_badly, on_ranks, recipe, small, start_ranks, train_small

from tricycle_gpt import Communicator, evaluate, load_newest_checkpoint, read_metrics
from tricycle_gpt.runs.data_parallel import (
    DealtOptimiser,
    check_that_all_begin_alike,
    make_buckets,
    totals,
)
from tricycle_gpt.runs.distributed import Alone
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_nn import AdamW, Muon, Parameter

pytestmark = pytest.mark.slow  # it starts many processes

LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"

# ---- Sharing out ----


def test_a_step_is_shared_evenly():
    assert recipe(batch_size=4, micro_batches=128).share(1) == (4, 128)
    assert recipe(batch_size=4, micro_batches=128).share(8) == (4, 16)
    assert recipe(batch_size=6, micro_batches=1).share(2) == (3, 1)
    assert recipe(batch_size=6, micro_batches=3).share(2) == (3, 3)  # 9 windows, 6 at once at most
    with pytest.raises(ValueError, match="looks at 6 x 2 windows, which 5 ranks cannot share"):
        recipe().share(5)


def test_buckets_by_hand():
    # In lines of 16 numbers: one line, two, one and four.
    first, second, third, fourth = (Parameter(np.zeros(n, np.float32)) for n in (9, 32, 3, 64))
    optimiser = AdamW([first, third, second, fourth])
    buckets = make_buckets(optimiser.groups, [first, second, third, fourth], ranks=2, size=40)
    # The arena has first at 0, third at 16, second at 32, fourth at 64, cut from its end.
    assert [(b.start, b.end, b.tensors) for b in buckets] == [
        (64, 128, [fourth]),
        (16, 64, [third, second]),
        (0, 16, [first]),
    ]
    # 48 numbers are three lines: the rank with less so far gets two of them; then one is left.
    assert [b.parts for b in buckets] == [
        [(64, 96), (96, 128)],
        [(16, 48), (48, 64)],
        [(0, 0), (0, 16)],
    ]


shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=12)


@given(shapes, st.integers(1, 7), st.integers(1, 4000), st.sampled_from([AdamW, Muon]))
def test_every_number_belongs_to_one_rank(shapes, ranks, size, kind):
    parameters = [Parameter(np.zeros(shape, np.float32)) for shape in shapes]
    optimiser = kind(parameters)
    arena = optimiser.groups[0].arena
    buckets = make_buckets(optimiser.groups, parameters, ranks, size)
    covered = np.zeros(arena.starts[-1], int)
    loads = np.zeros(ranks)
    for bucket in buckets:
        assert len(bucket.parts) == ranks
        for rank, (start, end) in enumerate(bucket.parts):
            covered[start:end] += 1
            loads[rank] += end - start
            assert kind is AdamW or {start, end} <= {0, *arena.starts}
    assert (covered == 1).all()
    largest = max(b.end - b.start for b in buckets)
    assert loads.max() - loads.min() <= (largest if kind is Muon else 16 * len(buckets))


def test_one_rank_changes_nothing():
    model = small()
    optimiser = make_optimiser(model, recipe())
    check_that_all_begin_alike(Alone(), optimiser, {})
    model.loss(TEXT[None, :9], TEXT[None, 1:10]).backward()
    loss, norm = totals(2.5, optimiser, Alone())
    gradients = [p.grad.astype(np.float64) for p in model.parameters()]
    assert loss == 2.5
    assert norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in gradients)), rel=1e-6)
    Alone().wait()
    assert not Alone().any(False)
    assert Alone().any(True)


def test_a_dealt_optimiser_has_an_optimisers_face():
    model, before = small(), small()
    for each in (model, before):
        each.loss(TEXT[None, :9], TEXT[None, 1:10]).backward()
    alone = make_optimiser(before, recipe())
    optimiser = make_optimiser(model, recipe())
    dealt = DealtOptimiser(optimiser, model.parameters(), Alone(), bucket_size=10_000)
    for each in (alone, dealt):
        each.learning_rate = 0.25
        each.step(grad_scale=0.5)
        each.zero_grad()
    assert optimiser.learning_rate == dealt.learning_rate == 0.25
    assert all(p.grad is None for p in model.parameters())
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        np.testing.assert_array_equal(p.array, q.array)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(dealt.masters()[name], array)
    state, other = dealt.state_dict(), small()
    again = DealtOptimiser(make_optimiser(other, recipe()), other.parameters(), Alone())
    again.load_state_dict(state)
    for found in (state, again.state_dict()):
        assert found.keys() == alone.state_dict().keys()
        for name, array in alone.state_dict().items():
            np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="missing steps_taken"):
        dealt.load_state_dict({})
    moment = "token_embedding.weight.first_moment"
    np.testing.assert_array_equal(dealt.state_dict()[moment], state[moment])


class OneOfTwo(Communicator):
    """A rank whose neighbour has nothing but zeros."""

    def __init__(self, fault=None):
        self.rank, self.size, self.fault = 0, 2, fault

    def reduce(self, array, parts):
        if self.fault:
            raise self.fault


def half_of(model, recompute=False, **options):
    model.recompute = recompute
    optimiser = make_optimiser(model, recipe())
    return DealtOptimiser(optimiser, model.parameters(), OneOfTwo(**options))


def test_a_gradient_that_grows_after_it_was_sent_is_noticed():
    model = small()
    model.blocks[0] = model.blocks[2]  # two blocks, each run again by itself, share their weights
    loss = model.loss(TEXT[None, :9], TEXT[None, 1:10])
    with half_of(model).summing():
        loss.backward()  # in one walk they are complete when both were walked
    model.recompute = True
    dealt = half_of(model, recompute=True)
    loss = model.loss(TEXT[None, :9], TEXT[None, 1:10])
    with pytest.raises(RuntimeError, match="went on growing after it was sent"), dealt.summing():
        loss.backward()


def test_every_parameter_needs_a_gradient():
    model = small()
    dealt = half_of(model)
    with pytest.raises(RuntimeError, match="39 parameters have no gradient"), dealt.summing():
        model.norm.weight.sum().backward()


def test_an_error_while_sending_is_raised_by_the_step():
    model = small()
    dealt = half_of(model, fault=OSError("the cable is out"))
    loss = model.loss(TEXT[None, :9], TEXT[None, 1:10])
    with pytest.raises(OSError, match="the cable is out"), dealt.summing():
        loss.backward()


# ---- The same gradients ----

GRADIENTS = """
from tricycle_gpt.runs.data_parallel import DealtOptimiser, totals
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.distributed import Alone

kinds = {
    "gpt2": ({}, {}),
    "gpt2, recomputed": ({}, {"recompute": True}),
    "gpt2, short windows": ({}, {}),
    "head apart, muon": ({"tied_head": False}, {"optimiser": "muon"}),
    "llama, muon": ({"block": "llama", "qk_norm": True}, {"optimiser": "muon"}),
}
with communicate() as ranks:
    for kind, (sizes, settings) in kinds.items():
        config = recipe(**settings)
        short = "short" in kind
        expected = small(**sizes)
        windows, n = config.share(1)
        make_optimiser(expected, config)
        whole = iter(Windows(windows * n, Alone(), short=short))  # all windows in one batch
        loss = gradients_of_step(expected, whole, 1, Alone())
        wanted = [p.grad for p in expected.parameters()]

        model = small(**sizes)
        model.recompute = config.recompute
        optimiser = make_optimiser(model, config)
        before = sum(m.size for g in optimiser.groups for m in g.moments.values())
        dealt = DealtOptimiser(optimiser, model.parameters(), ranks, bucket_size=10_000)
        assert len(dealt.buckets) > 3
        windows, n = config.share(ranks.size)
        for again in range(2):
            optimiser.zero_grad()
            source = iter(Windows(windows, ranks, short=short))
            mine = gradients_of_step(model, source, n, ranks, dealt.summing)
        total, norm = totals(mine, dealt, ranks)
        assert abs(total - loss) < 1e-6
        length = sum((g.astype(np.float64) ** 2).sum() for g in wanted) ** 0.5
        assert abs(norm / length - 1) < 1e-6

        for bucket in dealt.buckets:
            gradients = bucket.group.arena.gradients
            ranks.gather(gradients[slice(*bucket.parts[ranks.rank])], gradients, bucket.parts)
        largest = max(np.abs(g).max() for g in wanted)
        error = max(
            np.abs(p.grad - g).max() for p, g in zip(model.parameters(), wanted, strict=True)
        )
        assert error <= 1e-6 * largest, (kind, error / largest)

        # Moments: each rank has its share of them, and nobody has another's.
        mine = sum(m.size for g in optimiser.groups for m in g.moments.values())
        assert ranks.sum(mine) == before
        assert mine < 1.25 * before / ranks.size, (kind, mine / before)
    say(ranks, "well")
"""


@pytest.mark.parametrize("n", [2, 3] if LONG else [3])
def test_gradients_are_those_of_one_rank_with_the_whole_batch(n):
    assert on_ranks(n, GRADIENTS).split() == ["well"]


WAITING = """
import threading
from tricycle_autograd import record
from tricycle_gpt.runs.data_parallel import DealtOptimiser
from tricycle_gpt.runs.optimiser import make_optimiser

with communicate() as ranks:
    model = small()
    optimiser = make_optimiser(model, recipe())
    dealt = DealtOptimiser(optimiser, model.parameters(), ranks, bucket_size=10_000)
    first_sum = threading.Event()
    reduce = ranks.reduce
    def telling(array, parts):
        reduce(array, parts)
        first_sum.set()
    ranks.reduce = telling

    def wait(dy):  # the walk's last but one step; a sum that began later would never come
        assert first_sum.wait(60), "nothing was summed while backward went on"
        return (dy,)

    model.dropout.forward = lambda x: record(x.array, (x,), wait)
    with dealt.summing():
        model.loss(TEXT[None, :9], TEXT[None, 1:10]).backward()
    assert len(dealt.timeline) == len(dealt.buckets) > 3
    assert dealt.timeline[0][1] < dealt.walked  # of the last, nobody knows
    say(ranks, "well")
"""


def test_the_first_sums_are_there_before_backward_ends():
    assert on_ranks(2, WAITING).split() == ["well"]


# ---- The same runs ----

RUNS = """
class Stopping(Windows):
    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i == self.stop - 1:
                signal.raise_signal(signal.SIGTERM)
            yield batch

with communicate() as ranks:
    stop = int(sys.argv[1])
    for folder in sys.argv[2:]:
        for optimiser in ("adamw", "muon"):
            config = recipe(optimiser=optimiser)
            source = Stopping(config.share(ranks.size)[0], ranks)
            source.stop = stop if "parts" in folder else 0
            result = train(
                small(), source, config, f"{folder}/{optimiser}", validation=TEXT[:150],
                validation_bytes=400, resume=True, communicator=ranks,
            )
            say(ranks, result.steps, int(ranks.sum(result.steps)))
"""


def checkpoint_bytes(folder):
    newest = max((folder / "checkpoints").iterdir())
    return {path.name: path.read_bytes() for path in newest.iterdir()}


def check_same_run(folder, other):
    """Losses to 1e-4, and checkpoints with the same things in them, about the same."""
    rows, others = (read_metrics(f / "metrics.jsonl") for f in (folder, other))
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    for name in ("loss", "validation_loss"):
        losses, other_losses = ([r[name] for r in each if name in r] for each in (rows, others))
        np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-4)
    one, two = (load_newest_checkpoint(f / "checkpoints") for f in (folder, other))
    assert one.step == two.step == 20
    for arrays, other_arrays in ((one.parameters, two.parameters), (one.optimiser, two.optimiser)):
        assert arrays.keys() == other_arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(array, other_arrays[name], rtol=0, atol=1e-3, err_msg=name)
    losses = ("losses", "validation_loss")
    assert {k: v for k, v in one.state.items() if k not in losses} == {
        k: v for k, v in two.state.items() if k not in losses
    }


def test_runs_go_on_with_any_number_of_ranks(tmp_path):
    whole, parts, *others = (tmp_path / name for name in ("whole", "parts", "one", "three"))
    said = on_ranks(2, RUNS, 10, whole, parts).splitlines()
    assert said == ["20 40", "20 40", "10 20", "10 20"]
    for other in others:
        shutil.copytree(parts, other)
    for n, folder in zip((2, 1, 3), (parts, *others), strict=True):
        assert on_ranks(n, RUNS, 0, folder).splitlines() == [f"20 {20 * n}"] * 2
    for optimiser in ("adamw", "muon"):
        alone = tmp_path / "alone" / optimiser
        train_small(alone, Alone(), optimiser=optimiser)
        for folder in (whole, *others):
            check_same_run(folder / optimiser, alone)
        uninterrupted = checkpoint_bytes(whole / optimiser)
        assert checkpoint_bytes(parts / optimiser) == uninterrupted
        assert checkpoint_bytes(others[0] / optimiser) != uninterrupted  # it could have differed


ENDING = """
class Ending(Windows):
    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i == self.end:
                return
            yield batch

with communicate() as ranks:
    config = recipe()
    windows, n_batches = config.share(ranks.size)
    for folder, end in ((sys.argv[1], 99), (sys.argv[2], 8 - ranks.rank), (sys.argv[2], 99)):
        source = Ending(windows, ranks)
        source.end = end * n_batches
        result = train(small(), source, config, folder, resume=True, communicator=ranks)
        say(ranks, result.steps)
"""


def test_where_the_batches_of_one_rank_end_first_the_run_goes_on_exactly(tmp_path):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    assert on_ranks(2, ENDING, whole, ended).split() == ["20", "7", "20"]
    assert checkpoint_bytes(ended) == checkpoint_bytes(whole)


OF_A_DTYPE = """
import shutil
from tricycle_autograd import definitions_only

dtype, folder = sys.argv[1], sys.argv[2]
with communicate() as ranks, definitions_only():
    for times in ("once", "again"):
        model = small(n_layers=1).to("cpu", dtype)
        resume = {"communicator": ranks, "resume": times == "again"}
        settings = recipe(steps=4, warmup=1, checkpoint_every=2, micro_batches=1)
        train(model, Windows(3, ranks), settings, folder, **resume)
        ranks.wait()
        if ranks.rank == 0 and times == "once":
            shutil.copytree(folder + "/checkpoints", folder + "/whole")
            shutil.rmtree(folder + "/checkpoints/step-00000004")
        ranks.wait()
"""


@pytest.mark.parametrize(
    ("dtype", "moments"), [("float64", "float64"), ("bfloat16", "float32")], ids=str
)
def test_ranks_train_models_of_other_dtypes_and_go_on_to_the_same_bits(tmp_path, dtype, moments):
    on_ranks(2, OF_A_DTYPE, dtype, tmp_path)
    whole, resumed = (load_newest_checkpoint(tmp_path / f) for f in ("whole", "checkpoints"))
    assert whole.step == resumed.step == 4
    for one, other in (
        (whole.parameters, resumed.parameters),
        (whole.optimiser, resumed.optimiser),
    ):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    kept = [a for name, a in whole.optimiser.items() if name.endswith(("_moment", ".master"))]
    assert {array.dtype.name for array in (*kept, *whole.parameters.values())} == {moments}


DROPOUT = """
with communicate() as ranks:
    for name in ("first", "second"):
        train_small(sys.argv[1] + name, ranks, small(dropout=0.3), steps=3, warmup=1)
"""


def test_dropout_draws_other_numbers_on_each_rank_and_the_same_in_each_run(tmp_path):
    on_ranks(2, DROPOUT, f"{tmp_path}/")
    assert checkpoint_bytes(tmp_path / "first") == checkpoint_bytes(tmp_path / "second")
    train_small(tmp_path / "alone", Alone(), small(dropout=0.3), steps=3, warmup=1)
    alone = read_metrics(tmp_path / "alone" / "metrics.jsonl")[0]["loss"]
    assert read_metrics(tmp_path / "first" / "metrics.jsonl")[0]["loss"] != alone


# ---- Trouble ----

BAD = """
with communicate() as ranks:
    real, calls = GPT.loss, []
    def loss(self, ids, targets):
        calls.append(0)
        bad = ranks.rank == 1 and len(calls) == 4  # the fourth step, but for what is run again
        return real(self, ids, targets) * (float("nan") if bad else 1.0)
    GPT.loss = loss
    train_small(sys.argv[1], ranks, when_not_finite=sys.argv[2])
"""


def test_a_bad_number_on_one_rank_is_judged_alike_by_all(tmp_path):
    on_ranks(2, BAD, tmp_path / "skip", "skip")
    rows = read_metrics(tmp_path / "skip" / "metrics.jsonl")
    assert [row["step"] for row in rows if "unusual" in row] == [3]
    kept = sorted(path.name for path in (tmp_path / "skip").glob("bad-step-*"))
    assert kept == [f"bad-step-00000004-rank-{rank}.safetensors" for rank in (0, 1)]
    said = ends_badly(start_ranks(2, BAD, tmp_path / "stop", "stop"))
    assert said.count("at step 4 the loss is nan") == 1
    assert "rank-0.safetensors" in said
    assert "rank-1.safetensors" in said


BEGINNINGS = """
from tricycle_gpt.runs.command_line import end_politely
def main():
    with communicate() as ranks:
        model = small()
        if sys.argv[2] == "weights":
            model.norm.weight.array[0] += ranks.rank
        seed = ranks.rank if sys.argv[2] == "seed" else 0
        spikes = "skip" if sys.argv[2] == "policy" and ranks.rank else "off"
        sizes = {"batch_size": 5 if sys.argv[2] == "batch" else 6, "micro_batches": 1}
        train_small(sys.argv[1], ranks, model, seed=seed, spikes=spikes, **sizes)
end_politely(main)
"""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("weights", "error: rank 1 does not begin as rank 0 does: weights differ. All ranks need"),
        ("seed", "does not begin as rank 0 does: training.seed differ"),
        ("policy", "does not begin as rank 0 does: training.spikes differ"),
        ("batch", "a step looks at 5 x 1 windows, which 2 ranks cannot share evenly"),
    ],
)
def test_ranks_that_cannot_train_together_say_why(tmp_path, fault, message):
    assert message in ends_badly(start_ranks(2, BEGINNINGS, tmp_path, fault))


# ---- Evaluation ----


class OneOfThree(Communicator):
    """A rank that never hears from the others."""

    def __init__(self, rank):
        self.rank, self.size = rank, 3

    def sum(self, numbers):
        self.found = np.array(numbers)
        return self.found + 1.0


def test_an_evaluation_is_shared_window_by_window():
    model = small()
    alone = evaluate(model, TEXT, batch_size=2)
    ranks = [OneOfThree(rank) for rank in range(3)]
    for rank in ranks:
        evaluate(model, TEXT, batch_size=2, communicator=rank)
    losses, tokens = sum(rank.found for rank in ranks)
    assert (sum(rank.found != 0 for rank in ranks) == 1).all()
    assert tokens.sum() == alone.tokens == len(TEXT) - 1
    assert (losses * tokens).sum() / tokens.sum() == alone.loss
