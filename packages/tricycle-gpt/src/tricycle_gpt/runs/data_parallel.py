"""Data parallel training: every rank has the model, and a share of each batch.

A step with n ranks is the step that one rank would make with the whole batch:

    each rank finds the gradients of its share of the batch
    the gradients are added up over the ranks
    each rank moves 1/n of the numbers, with the moments of these alone
    the moved numbers are gathered: every rank has the whole model again

The third line is ZeRO's first stage (Rajbhandari et al., 2019): no moment is kept twice, and what
is sent is no more than plain addition over all ranks would send.

*Buckets.*  Gradients travel in stretches of an arena.  Each bucket is cut into n parts, one for
each rank, so that all send and receive at once.  Where numbers move one by one the cuts are
anywhere; where a matrix moves as a whole (Muon) they are between matrices, and ranks take turns
with the larger parts.

*While backward goes on.*  The walk finishes the last layers first and the token table last.  As
soon as a bucket's gradients are complete a thread sends it, and adds up what comes, while the walk
goes on to earlier layers.  Buckets leave in one order, the same on every rank.

*Same numbers.*  The sums are made in the order of the ranks, so a run with n ranks is repeated to
the bit by n ranks.  Other numbers of ranks round differently, in the last digits.
"""

import json
import queue
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tricycle_autograd.devices import device_of, move
from tricycle_autograd.memory import flat_zeros
from tricycle_autograd.tape import on_finished_leaf
from tricycle_autograd.tensor import Tensor
from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.distributed import Communicator, Parts, texts_of_all
from tricycle_gpt.runs.resuming import dropouts
from tricycle_nn.clipping import sum_of_all_squares
from tricycle_nn.optimiser import MASTER, AnyOptimiser, Group

BUCKET = 4 << 20  # numbers, 16 MB: large enough that a message's start costs nothing
LINE = 16  # numbers in a cache line: cuts are at its multiples


@dataclass
class Bucket:
    """Neighbours in an arena, whose gradients travel together.

    group       whose arena
    tensors     the parameters in it
    start, end  where they are
    parts       (start, end) of each rank's part
    place       where this rank keeps its part's moments
    """

    group: Group
    tensors: list[Tensor]
    start: int
    end: int
    parts: Parts = ()
    place: int = 0


class DealtOptimiser:
    """An optimiser whose work is dealt out to ranks, with an optimiser's face.

    optimiser     with its state already loaded, if the run is resumed; the same on every rank
    parameters    the model's, in its order: gradients are complete in the opposite one, about
    communicator  the ranks

    timeline  (began, ended) of each bucket's sum in the last step, as perf_counter says it
    walked    when the last backward pass ended

    From now on each rank keeps the moments of its part only.
    """

    def __init__(
        self,
        optimiser: AnyOptimiser,
        parameters: Sequence[Tensor],
        communicator: Communicator,
        bucket_size: int = BUCKET,
    ):
        self.optimiser = optimiser
        self.communicator = communicator
        self.buckets = make_buckets(optimiser.groups, parameters, communicator.size, bucket_size)
        self.timeline: list[tuple[float, float]] = []
        self.walked = 0.0
        self._keep_this_ranks_part()
        if communicator.size > 1 and device_of(self.groups[0].arena.values) == "cuda":
            # Now, in the thread that took this rank's GPU: in a new one it would be the first.
            _ = communicator.gpus

    def _keep_this_ranks_part(self):
        for group in self.groups:
            mine = [bucket for bucket in self.buckets if bucket.group is group]
            mine.sort(key=lambda bucket: bucket.start)
            parts = [bucket.parts[self.communicator.rank] for bucket in mine]
            place = 0
            for bucket, part in zip(mine, parts, strict=True):
                bucket.place = place
                place += _length(part)
            group.keep([part for part in parts if _length(part)])

    @property
    def groups(self) -> list[Group]:
        """The groups of the optimiser that is dealt out."""
        return self.optimiser.groups

    @property
    def learning_rate(self) -> float:
        """That of the optimiser."""
        return self.optimiser.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        self.optimiser.learning_rate = learning_rate

    @contextmanager
    def summing(self) -> Iterator[None]:
        """Run a step's last backward pass: when the block ends, gradients are summed over ranks.

        Each rank then has the sums of its own part.  Raises RuntimeError for a parameter without
        a gradient, and for one whose gradient changes after it was sent.
        """
        self.timeline = []
        sums = Sums(self)
        try:
            with on_finished_leaf(sums.finished):
                yield
            self.walked = time.perf_counter()
            sums.wait()
        finally:
            sums.ready.put(None)

    def step(self, grad_scale: float = 1.0) -> None:
        """Move this rank's numbers, and get the others' (see Optimiser.step)."""
        self.optimiser.step(grad_scale)
        for bucket in self.buckets:
            values = bucket.group.arena.values
            mine = values[slice(*bucket.parts[self.communicator.rank])]
            self.communicator.gather(mine, values, bucket.parts)

    def zero_grad(self) -> None:
        """Forget the gradients; the next backward pass overwrites them."""
        self.optimiser.zero_grad()

    def state_dict(self) -> dict[str, np.ndarray]:
        """On rank 0 the optimiser's state, whole, as one rank would save it; {} on the others."""
        whole = [{n: self._gathered(group, n) for n in group.moments} for group in self.groups]
        with self._undealt(whole):
            return {} if self.communicator.rank else self.optimiser.state_dict()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take over a whole state, the same on every rank, which keeps its part of it.

        ValueError lists every name that does not fit.
        """
        whole = [
            {
                name: flat_zeros(_size(group), part.dtype, part)
                for name, part in group.moments.items()
            }
            for group in self.groups
        ]
        with self._undealt(whole):
            self.optimiser.load_state_dict(state)
        for group, moments in zip(self.groups, whole, strict=True):
            group.moments = moments
        self._keep_this_ranks_part()

    def masters(self) -> dict[str, np.ndarray]:
        """On rank 0 a copy of every parameter as exactly as it is known; {} on the others.

        What rank 0 lacks is gathered: the masters of bfloat16 parameters, if there are any.
        """
        whole = [
            {name: self._gathered(group, name) for name in group.moments if name == MASTER}
            for group in self.groups
        ]
        with self._undealt(whole):
            return {} if self.communicator.rank else self.optimiser.masters()

    @contextmanager
    def _undealt(self, whole):
        """Have the groups hold these moments, of all their numbers, for a while."""
        dealt = [group.moments for group in self.groups]
        try:
            for group, moments in zip(self.groups, whole, strict=True):
                group.moments = moments
            yield
        finally:
            for group, moments in zip(self.groups, dealt, strict=True):
                group.moments = moments

    def _gathered(self, group, name):
        """The moment of every number, on rank 0; None on the others."""
        moment, rank = group.moments[name], self.communicator.rank
        whole = None if rank else flat_zeros(_size(group), moment.dtype, moment)
        for bucket in self.buckets:
            if bucket.group is group:
                mine = moment[bucket.place : bucket.place + _length(bucket.parts[rank])]
                self.communicator.gather(mine, whole, bucket.parts, root=0)
        return whole


def totals(loss: float, optimiser: AnyOptimiser, communicator: Communicator) -> tuple[float, float]:
    """The loss and the gradient's norm over all ranks.

    loss       this rank's share of it
    optimiser  whose parameters have their gradients: summed over ranks, each rank its part

    Returns both, the same on every rank.
    """
    stretches = (
        group.arena.gradients[start:end]
        for group in optimiser.groups
        for start, end, _ in group.runs()
    )
    loss, squares = communicator.sum([loss, sum_of_all_squares(stretches)]).tolist()
    return loss, squares**0.5


def deal_out(
    model: GPT,
    optimiser: AnyOptimiser,
    config: TrainingConfig,
    facts: dict[str, Any],
    communicator: Communicator,
) -> DealtOptimiser:
    """Deal an optimiser's work out to ranks that all begin alike; dropout draws for each rank anew.

    facts  what must be the same on all ranks besides the settings, by name
    """
    # The settings too that are not in a recipe: all must look, save and judge at one step.
    settings = {f"training.{name}": value for name, value in asdict(config).items()}
    check_that_all_begin_alike(communicator, optimiser, facts | settings)
    for layer in dropouts(model):
        layer.stream = communicator.rank
    return DealtOptimiser(optimiser, model.parameters(), communicator)


def check_that_all_begin_alike(
    communicator: Communicator, optimiser: AnyOptimiser, facts: dict[str, Any]
) -> None:
    """Raise ValueError, naming what differs, unless all ranks have the same weights and facts.

    facts  by name, in values that JSON can hold
    """
    if communicator.size == 1:
        return
    # As bytes, for Python's own functions do not know bfloat16.
    values = [move(group.arena.values, "cpu").view(np.uint8) for group in optimiser.groups]
    sums = [zlib.crc32(array) for array in values]
    texts = texts_of_all(communicator, json.dumps({"weights": sums, **facts}))
    first, *others = (json.loads(text) for text in texts)
    for rank, other in enumerate(others, 1):
        if names := [name for name in first if first[name] != other[name]]:
            raise ValueError(
                f"rank {rank} does not begin as rank 0 does: {', '.join(names)} differ. All "
                "ranks need the same program, settings and data, and one folder that all see"
            )


class Sums:
    """One backward pass, as its gradients leave: buckets go out as they become complete."""

    def __init__(self, dealt: DealtOptimiser):
        self.dealt = dealt
        self.missing = [{tensor.node for tensor in bucket.tensors} for bucket in dealt.buckets]
        self.home = {node: nodes for nodes in self.missing for node in nodes}
        self.sent = 0
        self.ready: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.errors: list[BaseException] = []
        # A daemon: where this rank fails, the thread may wait for others for ever.
        self.thread = threading.Thread(target=self._send, name="gradients", daemon=True)
        self.thread.start()

    def finished(self, node: Any) -> None:
        """A leaf's gradient is complete: send its bucket, if the last one is out."""
        if node not in self.home:  # an input of a block that is recomputed
            return
        if node not in self.home[node]:
            raise RuntimeError(
                "a parameter's gradient went on growing after it was sent to other ranks: it is "
                "used by several blocks that are recomputed; train with recompute=False"
            )
        self.home[node].remove(node)
        while self.sent < len(self.missing) and not self.missing[self.sent]:
            self.ready.put(self.sent)
            self.sent += 1

    def wait(self) -> None:
        """Until every bucket's sum is there."""
        if self.sent < len(self.missing):
            lacking = sum(len(nodes) for nodes in self.missing)
            raise RuntimeError(
                f"{lacking} parameters have no gradient after the backward pass; ranks that train "
                "together need one for every parameter of the optimiser"
            )
        self.ready.put(None)
        self.thread.join()
        if self.errors:
            raise self.errors[0]

    def _send(self):
        try:
            for i in iter(self.ready.get, None):
                bucket, began = self.dealt.buckets[i], time.perf_counter()
                self.dealt.communicator.reduce(bucket.group.arena.gradients, bucket.parts)
                self.dealt.timeline.append((began, time.perf_counter()))
        except BaseException as error:  # raised in the thread that waits
            self.errors.append(error)


def make_buckets(
    groups: Sequence[Group], parameters: Sequence[Tensor], ranks: int, size: int = BUCKET
) -> list[Bucket]:
    """Cut arenas into buckets of about `size` numbers or more, in the order in which they leave.

    A bucket leaves when its earliest parameter is complete; gradients are completed from the last
    parameter to the first.
    """
    order = {id(parameter): i for i, parameter in enumerate(parameters)}
    buckets = [bucket for group in groups for bucket in _cut_into_buckets(group, size)]
    buckets.sort(key=lambda b: min(order[id(tensor)] for tensor in b.tensors), reverse=True)
    loads = [0] * ranks
    for bucket in buckets:
        bucket.parts = _deal(_cut_into_parts(bucket, ranks), loads)
    return buckets


def _cut_into_buckets(group, size):
    """Whole parameters, from the last to the first: the last ones are complete first."""
    starts, tensors = group.arena.starts, group.arena.tensors
    last = len(tensors)
    for first in range(len(tensors) - 1, -1, -1):
        if starts[last] - starts[first] >= size or first == 0:
            yield Bucket(group, tensors[first:last], starts[first], starts[last])
            last = first


def _cut_into_parts(bucket, ranks):
    """(start, end) of as many parts as there are ranks, as equal as can be."""
    length = bucket.end - bucket.start
    where = [bucket.start + round(length * i / ranks / LINE) * LINE for i in range(ranks + 1)]
    if not bucket.group.one_by_one:
        allowed = [a for a in bucket.group.arena.starts if bucket.start <= a <= bucket.end]
        where = [min(allowed, key=lambda a: abs(a - cut)) for cut in where]
    return list(zip(where, where[1:], strict=False))


def _deal(parts, loads):
    """Parts in the order of their ranks: the largest to the rank with the least so far."""
    dealt = [(0, 0)] * len(loads)
    eager = sorted(range(len(loads)), key=lambda rank: loads[rank])
    for rank, part in zip(eager, sorted(parts, key=_length, reverse=True), strict=True):
        dealt[rank] = part
        loads[rank] += _length(part)
    return dealt


def _size(group):
    """Numbers in a group's arena."""
    return group.arena.starts[-1]


def _length(part):
    start, end = part
    return end - start
