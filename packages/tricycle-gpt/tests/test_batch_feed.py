"""Batches from anywhere: checked before the first step, copied, and ended with a checkpoint."""

import json

import numpy as np
import pytest
from small_runs import Stream, losses_in, run, settings, text, weights_in

from tricycle_gpt import GPTConfig, load_newest_checkpoint, read_metrics, train
from tricycle_gpt.runs.batch_feed import BatchFeed, as_batch

SIZES = GPTConfig(23, 16, 16, n_layers=1, n_heads=2)
IDS = np.arange(12).reshape(2, 6)


class Tensorlike:
    """As a tensor of another library: it knows one way to become an array."""

    def __init__(self, array):
        self.array = array


class WithArray(Tensorlike):
    def __array__(self, dtype=None, copy=None):
        return self.array


class WithDlpack(Tensorlike):
    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnAnotherDevice(WithDlpack):
    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **options):
        raise BufferError("the tensor is on a GPU")


@pytest.mark.parametrize("kind", [WithArray, WithDlpack, np.asarray, np.ndarray.tolist])
def test_a_batch_becomes_arrays_of_our_own(kind):
    inputs, targets = as_batch((kind(IDS), kind(IDS)), SIZES)
    assert inputs.tolist() == targets.tolist() == IDS.tolist()
    assert not np.shares_memory(inputs, IDS)


def test_a_source_may_fill_one_array_again_and_again():
    def refilled():
        room = np.zeros((2, 1, 4), int)
        for i in range(4):
            room[...] = i
            yield room

    feed = BatchFeed(refilled(), SIZES)
    feed.check()
    steps = [feed.take(2), feed.take(2)]
    assert [[int(inputs[0, 0]) for inputs, _ in step] for step in steps] == [[0, 1], [2, 3]]
    assert feed.take(2) is None
    assert feed.position is None


@pytest.mark.parametrize(
    "given, error",
    [
        (IDS, "got inputs of shape .6,. and targets of shape .6,."),
        ({"input_ids": IDS, "labels": IDS}, "got dict with input_ids, labels"),
        (IDS[:1], "got ndarray"),
        ((IDS, IDS, IDS), "got tuple"),
        (7, "got int"),
        ("ab", "got str"),
        ((IDS * 1.0, IDS), "got inputs of float64"),
        ((IDS, IDS[:, 1:]), r"inputs of shape \(2, 6\) and targets of shape \(2, 5\)"),
        ((IDS[:, :0], IDS[:, :0]), r"inputs of shape \(2, 0\)"),
        ((np.zeros((1, 17), int),) * 2, "windows of 17 tokens, and the model looks at 16"),
        ((IDS + 20, IDS), "the inputs of a batch hold id 23; this model knows ids 0 to 22"),
        ((IDS, IDS - 1), "the targets of a batch hold id -1"),
        (
            (OnAnotherDevice(IDS), IDS),
            "memory of the CPU, to be copied from there: OnAnotherDevice says",
        ),
    ],
)
def test_what_is_no_batch_is_refused_before_the_first_step(tmp_path, make_tiny, given, error):
    with pytest.raises((TypeError, ValueError, IndexError), match=error):
        train(make_tiny(), [given], settings(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("given", [7, None, "abc", {"inputs": IDS}])
def test_what_is_no_iterable_is_refused(tmp_path, make_tiny, given):
    with pytest.raises(TypeError, match="batches come from an iterable"):
        train(make_tiny(), given, settings(), tmp_path)


@pytest.mark.parametrize("position", [7, (1, 2, 3), (0.5, 1), "ab", None])
def test_a_position_that_no_run_could_go_on_from_is_refused_before_the_first_step(
    tmp_path, make_tiny, position
):
    class Source(list):
        pass

    source = Source([(IDS, IDS)])
    source.position = position
    with pytest.raises(TypeError, match="a source's position is two whole numbers"):
        train(make_tiny("gpt2"), source, settings(steps=1), tmp_path)
    assert not list(tmp_path.rglob("MANIFEST.json"))


def test_no_batch_at_all_is_refused(tmp_path, make_tiny):
    with pytest.raises(ValueError, match="there is no batch to train on"):
        train(make_tiny(), [], settings(), tmp_path)


def test_a_list_of_batches_trains_and_its_end_ends_the_run_with_a_checkpoint(
    tmp_path, make_tiny, capsys
):
    stream = iter(Stream(text(), 4, 16))
    batches = [next(stream) for _ in range(11)]
    train(make_tiny(), Stream(text(), 4, 16), settings(steps=30), tmp_path / "whole")
    result = train(make_tiny(), batches, settings(steps=30), tmp_path / "ended")
    assert (result.steps, result.finished, result.evaluation) == (11, False, None)
    said = capsys.readouterr().err
    assert "these batches do not know their position" in said
    assert "the batches ended after 11 of 30 steps" in said
    found = load_newest_checkpoint(tmp_path / "ended" / "checkpoints")
    assert (found.step, found.state["position"]) == (11, None)
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")[:11]]
        for name in ("whole", "ended")
    ]
    assert losses[0] == losses[1]
    # More batches, from where they then begin: here, where the others ended.
    rest = (next(stream) for _ in range(19))
    assert train(make_tiny(), rest, settings(steps=30), tmp_path / "ended", resume=True).finished
    (weights, state, moments), (same, other, as_well) = (
        weights_in(tmp_path / name) for name in ("whole", "ended")
    )
    assert (weights, moments) == (same, as_well)
    assert json.loads(state) | {"position": None} == json.loads(other)


def test_a_step_that_its_batches_do_not_fill_is_not_taken(tmp_path, make_tiny):
    stream = iter(Stream(text(), 2, 16))
    batches = [next(stream) for _ in range(5)]
    config = settings(steps=10, batch_size=2, micro_batches=2, warmup=0)
    assert train(make_tiny(), batches, config, tmp_path).steps == 2
    assert load_newest_checkpoint(tmp_path / "checkpoints").step == 2


class Ending(Stream):
    """A stream that ends, or fails, in place of its batch `end`."""

    end, error = 0, None

    def __iter__(self):
        for batch in super().__iter__():
            if self.position[1] > self.end:
                if self.error:
                    raise self.error
                return
            yield batch


@pytest.mark.parametrize(("end", "steps"), [(1, 0), (5, 2), (6, 3)])
@pytest.mark.parametrize("error", [None, RuntimeError("the loader died"), OSError(5, "EIO")])
def test_a_source_that_ends_or_fails_within_a_step_goes_on_exactly(
    tmp_path, make_tiny, end, steps, error
):
    config = settings(steps=8, batch_size=2, micro_batches=2, evaluate_every=0)
    sources = [Stream(text(), 2, 16), Ending(text(), 2, 16), Stream(text(), 2, 16)]
    sources[1].end, sources[1].error = end, error
    train(make_tiny(dropout=0.1), sources[0], config, tmp_path / "whole")
    if error is None:
        result = train(make_tiny(dropout=0.1), sources[1], config, tmp_path / "run")
        assert (result.steps, result.finished) == (steps, False)
    else:
        with pytest.raises(type(error), match="the loader died|EIO"):
            train(make_tiny(dropout=0.1), sources[1], config, tmp_path / "run")
    found = load_newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert (found.step, found.state["position"]) == (steps, [0, 2 * steps])
    train(make_tiny(dropout=0.1), sources[2], config, tmp_path / "run", resume=True)
    assert weights_in(tmp_path / "run") == weights_in(tmp_path / "whole")


def test_an_error_in_the_first_batch_is_raised_before_anything_is_written(tmp_path, make_tiny):
    source = Ending(text(), 4, 16)
    source.error = RuntimeError("the loader died")
    with pytest.raises(RuntimeError, match="the loader died"):
        train(make_tiny(), source, settings(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["own_metrics", "sample"])
@pytest.mark.parametrize("at", [10, 20, 29])
def test_an_error_in_what_the_caller_gave_is_raised_when_the_step_is_saved(
    tmp_path, make_tiny, place, at
):
    config = settings(steps=29, evaluate_every=1)

    def fine(*steps_taken):
        return {} if steps_taken else "text"

    def fails(*steps_taken):
        calls.append(steps_taken)
        if len(calls) == at:
            raise KeyError("of the caller")
        return fine(*steps_taken)

    calls = []
    whole = run(tmp_path / "whole", make_tiny(), config, **{place: fine})
    at = min(at, whole.steps - 1) if place == "sample" else at  # none after the last step
    with pytest.raises(KeyError, match="of the caller"):
        run(tmp_path / "run", make_tiny(), config, **{place: fails})
    assert load_newest_checkpoint(tmp_path / "run" / "checkpoints").step == at
    assert len(losses_in(tmp_path / "run")) == at
    run(tmp_path / "run", make_tiny(), config, resume=True, **{place: fine})
    assert weights_in(tmp_path / "run") == weights_in(tmp_path / "whole")
