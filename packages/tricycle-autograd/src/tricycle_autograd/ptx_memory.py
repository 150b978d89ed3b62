"""The emulated GPU's memory, and who was where in it.

A kernel's mistakes with memory are silent on a GPU, or show once in a thousand runs.  Here every
access is looked at, and a wrong one is a `Fault` with the line of the .cu file:

    outside of the arrays, or at an address that is not a multiple of its size
    shared memory that nobody has written
    what an asynchronous copy brings, before it was waited for
    a race: two threads at one place, one of them writing, and nothing that puts them in an order

What puts two accesses in an order is a barrier between them that both threads pass: one of the
block (`__syncthreads`), or one of the warp (`__syncwarp`).  `Marks` notes for each cell of memory
who wrote it and who read it last, and the time of each: how many barriers of the block that thread
had passed, and how many of the warp.  So a race is found in any one run in which both accesses
happen, whichever comes first.

`Report` counts what memory costs: bytes asked for and moved, and turns at shared memory's banks.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

WARP = 32
UNITS: dict[int, str] = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "V16"}  # what one access moves
SECTOR = 32  # bytes: the least that memory gives
BANKS = 32  # of shared memory, each a word wide
WORD = 4  # bytes
CELL = 2  # bytes of shared memory that are watched as one: a bf16
SHARED_WINDOW = 1 << 60  # addresses of shared memory begin here, where a pointer may be to either
NOBODY, MANY = -1, -2  # MANY: threads of several blocks
BLOCK_BITS = 32
BLOCK_TIME = 1 << BLOCK_BITS  # a barrier of the block; one of the warp counts 1


@dataclass
class Report:
    """What a launch did.

    instructions  of warps, by name
    asked, moved  bytes of the GPU's memory that threads wanted, and that had to be moved, in
                  sectors of 32, by "reads", "writes" and "copies"
    accesses      to shared memory by warps, or the parts of warps that are served together
    turns         that they took: one each, if no two lanes want different words of one bank
    """

    instructions: Counter = field(default_factory=Counter)
    asked: Counter = field(default_factory=Counter)
    moved: Counter = field(default_factory=Counter)
    accesses: Counter = field(default_factory=Counter)
    turns: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        names = ", ".join(f"{name} {n:,}" for name, n in self.instructions.most_common(12))
        rows = [f"{self.instructions.total():,} instructions of warps: {names}"]
        for verb, asked in self.asked.items():
            moved = self.moved[verb]
            rows.append(
                f"memory {verb}: {asked:,} bytes asked for, {moved:,} moved ({asked / moved:.0%})"
            )
        for verb, accesses in self.accesses.items():
            rows.append(f"shared {verb}: {accesses:,} accesses took {self.turns[verb]:,} turns")
        return "\n".join(rows)


class Team:
    """The threads of a launch.

    n, blocks, block_size   how many threads and blocks, and how many threads in each
    block                   which block each thread is in
    time                    the barriers each has passed
    fault                   raises a Fault: called with what is wrong, and the thread
    """

    def __init__(self, blocks: int, block_size: int, fault: Callable):
        self.n, self.blocks, self.block_size = blocks * block_size, blocks, block_size
        self.block = np.arange(self.n) // block_size
        self.time = np.zeros(self.n, np.int64)
        self.fault = fault
        # Tables, because these are asked for at each access: by thread, and by code.
        warp, warps = np.arange(self.n) // WARP, self.n // WARP
        self.code_of_warp, self.code_of_block = -3 - warp, -3 - warps - self.block
        self._warps_of, self._blocks_of = (np.full(self.n + 2 + warps + blocks, -1) for _ in "wb")
        self._warps_of[: self.n], self._blocks_of[: self.n] = warp, self.block
        self._warps_of[self.code_of_warp], self._blocks_of[self.code_of_warp] = warp, self.block
        self._blocks_of[self.code_of_block] = self.block

    def name(self, code: int) -> str:
        """In words: a thread, or the threads that a mark stands for."""
        if code >= 0:
            block, index = divmod(code, self.block_size)
            return f"thread {index} of block {block}"
        return "several threads" if code == MANY else f"threads of block {self._blocks_of[code]}"

    # Who was at a cell, in one number: a thread; or MANY; or, below it, several threads of one warp
    # or of one block.  numpy finds negative ones at the end of a table.

    def same_block(self, code, who):
        return self._blocks_of[code] == self.block[who]

    def same_warp(self, code, who):
        return self._warps_of[code] == self._warps_of[who]

    def ordered(self, code, time, who):
        """Whether what `code` did at that time comes before what threads do now."""
        now = self.time[who]
        by_block = self.same_block(code, who) & (time >> BLOCK_BITS < now >> BLOCK_BITS)
        return by_block | (self.same_warp(code, who) & (time < now))

    def both(self, code, who):
        """The code for the thread that was there and one more."""
        together = np.where(self.same_block(code, who), self.code_of_block[who], MANY)
        return np.where(self.same_warp(code, who), self.code_of_warp[who], together)


class Marks:
    """Who wrote each cell of a memory last, and who has read it since, and when."""

    def __init__(self, cells: int, team: Team, memory: str):
        self.team, self.memory = team, memory
        self.writer = np.full(cells, NOBODY, np.int64)
        self.reader = np.full(cells, NOBODY, np.int64)
        self.written_at = np.zeros(cells, np.int64)
        self.read_at = np.zeros(cells, np.int64)

    def read(self, cell: np.ndarray, who: np.ndarray) -> None:
        """Note that threads read cells.  A Fault where another thread may be writing."""
        self._check("reads", "written", self.writer[cell], self.written_at[cell], who)
        team, before = self.team, self.reader[cell]
        # Who read it before a barrier cannot be in the way of who writes it after the next.
        over = team.same_block(before, who)
        over &= self.read_at[cell] >> BLOCK_BITS < team.time[who] >> BLOCK_BITS
        alone = over | (before == NOBODY) | (before == who)
        code = who if alone.all() else np.where(alone, who, team.both(before, who))
        self.reader[cell] = code
        self.read_at[cell] = team.time[who]
        self._join_readers(cell, code, who)

    def write(self, cell: np.ndarray, who: np.ndarray) -> None:
        """Note that threads write cells.  A Fault where another may read or write."""
        self._check("writes", "written", self.writer[cell], self.written_at[cell], who)
        self._check("writes", "read", self.reader[cell], self.read_at[cell], who)
        self.writer[cell] = who
        self.written_at[cell] = self.team.time[who]
        other = self.writer[cell]
        if (other != who).any():
            i = int(np.argmax(other != who))
            words = f"a race: writes {self.memory} at the same time as {self.team.name(other[i])}"
            self.team.fault(words, who[i])

    def _join_readers(self, cell, code, who):
        """Where several threads read one cell at once, the last one's mark alone was kept."""
        differs = self.reader[cell] != code
        if not differs.any():
            return
        cell, who = cell[differs], who[differs]
        joined = self.team.both(self.reader[cell], who)
        of_block = joined < self.team.code_of_warp[-1]
        for mark in (~of_block, of_block, joined == MANY):
            self.reader[cell[mark]] = joined[mark]  # from few to many: the widest mark stays

    def _check(self, verb, done, other, time, who):
        clash = (other != NOBODY) & (other != who)
        if clash.any():
            clash &= ~self.team.ordered(other, time, who)
            if clash.any():
                i = int(np.argmax(clash))
                self.team.fault(
                    f"a race: {verb} {self.memory} that {self.team.name(int(other[i]))} has "
                    f"{done}, with no barrier between the two",
                    who[i],
                )


def cells_of(place: np.ndarray, size: int, threads: np.ndarray, cell: int):
    """The cells, `cell` bytes each, that accesses touch: (cell numbers, who touches each)."""
    n = max(1, size // cell)
    if n == 1:
        return place // cell, threads
    return (place[:, None] // cell + np.arange(n)).ravel(), np.repeat(threads, n)


class Region:
    """The memory from the first to the last byte of an array, or of several that overlap."""

    def __init__(self, low: int, high: int, name: str, itemsize: int, team: Team):
        self.low, self.high, self.name, self.itemsize = low, high, name, itemsize
        self.base = low // 16 * 16  # numpy's memory begins and ends at multiples of 16
        length = -(-(high - self.base) // 16) * 16
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(self.base))
        self.units = {size: raw.view(kind) for size, kind in UNITS.items()}
        self.marks = Marks((high - low) // itemsize, team, f"memory ({name})")


class Global:
    """The GPU's memory: the arrays that a launch was given, at their real addresses."""

    def __init__(self, arguments: list, team: Team, report: Report | None):
        self.team, self.report = team, report
        self.regions = _regions(arguments, team)
        self.lows = np.array([region.low for region in self.regions], np.uint64)
        self.highs = np.array([region.high for region in self.regions], np.uint64)

    def load(self, address: np.ndarray, size: int, threads: np.ndarray, verb="reads") -> np.ndarray:
        """What lies at these addresses, as bytes: (threads, size)."""
        data = np.empty(len(threads), UNITS[size])
        for region, part, place in self._find(address, size, threads, verb):
            offset = (place - region.low).astype(np.int64)
            region.marks.read(*cells_of(offset, size, threads[part], region.itemsize))
            data[part] = region.units[size][(place - region.base).astype(np.int64) // size]
            self._count(verb, offset, size, threads[part])
        return data.view(np.uint8).reshape(-1, size)

    def store(self, address: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        """Write bytes (threads, size)."""
        size = data.shape[1]
        words = np.ascontiguousarray(data).view(UNITS[size])[:, 0]
        for region, part, place in self._find(address, size, threads, "writes"):
            offset = (place - region.low).astype(np.int64)
            region.marks.write(*cells_of(offset, size, threads[part], region.itemsize))
            region.units[size][(place - region.base).astype(np.int64) // size] = words[part]
            self._count("writes", offset, size, threads[part])

    def _find(
        self, address, size, threads, verb
    ) -> Iterator[tuple[Region, slice | np.ndarray, np.ndarray]]:
        """For each region: it, which of the accesses are there, and their addresses."""
        which = np.searchsorted(self.lows, address, "right") - 1
        outside = which < 0
        if len(self.lows):
            outside |= address + np.uint64(size) > self.highs[which]
        if outside.any():
            i = int(np.argmax(outside))
            self.team.fault(f"{verb} {size} bytes {self._where(int(address[i]))}", threads[i])
        askew = address % np.uint64(size) != 0
        if askew.any():
            words = f"{verb} {size} bytes at an address that is not a multiple of {size}"
            self.team.fault(words, threads[int(np.argmax(askew))])
        for k in np.unique(which):
            part = np.flatnonzero(which == k)
            yield self.regions[k], part, address[part]

    def _where(self, address):
        """In words, where an address outside of all arrays lies."""
        before = [region for region in self.regions if region.low <= address]
        if not before:
            return "outside of the arrays, before all of them"
        region = before[-1]
        return (
            f"outside of the arrays: {address - region.low} bytes into {region.name}, "
            f"which has {region.high - region.low}"
        )

    def _count(self, verb, offset, size, threads):
        if self.report is not None:
            # From the array's beginning: on a GPU, memory begins at a multiple of 256.
            sector = np.unique((threads // WARP << 40) + offset // SECTOR)  # of each warp
            self.report.asked[verb] += size * len(threads)
            self.report.moved[verb] += SECTOR * len(sector)


def _regions(arguments, team):
    """The regions of all arrays, in the order of their addresses."""
    found: list[list] = []
    arrays = [(i, a) for i, a in enumerate(arguments) if isinstance(a, np.ndarray) and a.size]
    bounds = [(*np.lib.array_utils.byte_bounds(a), str(i), a.itemsize) for i, a in arrays]
    for low, high, name, itemsize in sorted(bounds):
        if found and low < found[-1][1]:
            last = found[-1]
            last[1], last[2] = max(last[1], high), f"{last[2]} and {name}"
            last[3] = min(last[3], itemsize)
        else:
            found.append([low, high, name, itemsize])
    return [Region(low, high, f"argument {name}", size, team) for low, high, name, size in found]


class Shared:
    """The shared memory of every block, one after another."""

    def __init__(self, size: int, team: Team, report: Report | None):
        self.team, self.report = team, report
        self.size = max(16, -(-size // 16) * 16)
        raw = np.full(team.blocks * self.size, 0xFF, np.uint8)
        self.units = {size: raw.view(kind) for size, kind in UNITS.items()}
        cells = len(raw) // CELL
        self.marks = Marks(cells, team, "shared memory")
        self.written = np.zeros(cells, bool)
        self.awaited = np.zeros(cells, bool)  # an asynchronous copy is on its way here

    def load(self, address: np.ndarray, size: int, threads: np.ndarray, lanes=0) -> np.ndarray:
        """What lies at these addresses, as bytes (threads, size); `lanes` are served together."""
        place = self.places(address, size, threads, "reads")
        cell, who = cells_of(place, size, threads, CELL)
        self._check(
            self.awaited[cell],
            who,
            "reads what an asynchronous copy brings, which was not waited for",
        )
        self._check(~self.written[cell], who, "reads shared memory that nobody has written")
        self.marks.read(cell, who)
        self.count("ldmatrix" if lanes else "reads", address, size, threads, lanes)
        return self.units[size][place // size].view(np.uint8).reshape(-1, size)

    def store(self, address: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        """Write bytes (threads, size)."""
        size = data.shape[1]
        place = self.places(address, size, threads, "writes")
        self._mark_written(place, size, threads, awaited=False)
        self.count("writes", address, size, threads)
        self.units[size][place // size] = np.ascontiguousarray(data).view(UNITS[size])[:, 0]

    def expect(self, address: np.ndarray, size: int, threads: np.ndarray) -> np.ndarray:
        """An asynchronous copy sets out for these addresses.  Returns the places for `arrive`."""
        place = self.places(address, size, threads, "copies")
        self._mark_written(place, size, threads, awaited=True)
        self.count("copies", address, size, threads)
        return place

    def arrive(self, place: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        """It arrives, and the threads that sent it know."""
        size = data.shape[1]
        cell, who = cells_of(place, size, threads, CELL)
        self.units[size][place // size] = np.ascontiguousarray(data).view(UNITS[size])[:, 0]
        self.awaited[cell] = False
        self.marks.writer[cell] = who
        self.marks.written_at[cell] = self.team.time[who]

    def _mark_written(self, place, size, threads, awaited):
        cell, who = cells_of(place, size, threads, CELL)
        self._check(self.awaited[cell], who, "writes where an asynchronous copy is on its way")
        self.marks.write(cell, who)
        self.written[cell] = True
        self.awaited[cell] = awaited

    def places(self, address: np.ndarray, size: int, threads: np.ndarray, verb: str) -> np.ndarray:
        """Where in the memory of all blocks the addresses in one block's are."""
        offset = address.astype(np.int64)
        offset = np.where(offset >= SHARED_WINDOW, offset - SHARED_WINDOW, offset)
        outside = (offset < 0) | (offset + size > self.size)
        if outside.any():
            i = int(np.argmax(outside))
            words = f"{verb} {size} bytes outside of shared memory: at {offset[i]} of {self.size}"
            self.team.fault(words, threads[i])
        askew = offset % size != 0
        if askew.any():
            i = int(np.argmax(askew))
            words = f"{verb} {size} bytes of shared memory at {offset[i]}, no multiple of {size}"
            self.team.fault(words, threads[i])
        return self.team.block[threads] * self.size + offset

    def _check(self, wrong, who, words):
        if wrong.any():
            self.team.fault(words, who[int(np.argmax(wrong))])

    def count(
        self, name: str, address: np.ndarray, size: int, threads: np.ndarray, lanes=0
    ) -> None:
        """Turns at the banks: in each turn, every bank gives one word to all that want it."""
        if self.report is None:
            return
        lanes = lanes or min(WARP, WARP * WORD // size)  # that are served together
        word = (address.astype(np.int64) & (SHARED_WINDOW - 1))[:, None] // WORD
        word = word + np.arange(max(1, size // WORD))
        different = np.unique((threads // lanes)[:, None] * (1 << 20) + word)  # of each access
        wanted, times = np.unique((different >> 20) * BANKS + different % BANKS, return_counts=True)
        first_of_access = np.flatnonzero(np.diff(wanted // BANKS, prepend=-1))
        self.report.accesses[name] += len(first_of_access)
        self.report.turns[name] += int(np.maximum.reduceat(times, first_of_access).sum())
