"""Encoding and decoding whole texts, fast: `merges.encode` for every piece, and `merges.decode`.

What makes it fast is elsewhere: `scanning.py` cuts the text, `remembering.py` knows the pieces that
were seen before, `pieces.py` merges the others with the tables of `tables.py`. Here they work
together.

Memory is slow, but it can be asked early. So pieces are taken in blocks: a first pass works out the
rows of all pieces of the block and asks the processor to fetch them, a second pass finds them
there.

Order of the file: encoding, decoding, and the class that holds the tables of one vocabulary.
"""

import copy
import warnings
from functools import cached_property
from itertools import compress, groupby
from operator import itemgetter

import numpy as np

from .bytes_at import (
    PADDING,
    eight_bytes_at,
    int64_at,
    prefetch,
    put_eight_bytes,
    put_int64,
)
from .kernels import helper, kernel
from .pieces import SHORT_PIECE, halves, has_unknown_bytes, merge_long, merge_short
from .remembering import (
    ARENA_USED,
    BLOCK,
    LONG_ROWS_USED,
    LONGEST_REMEMBERED,
    MOST_IDS_REMEMBERED,
    PIECES_AT_ONCE,
    ROW_BYTES,
    ROWS_USED,
    PiecesSeen,
    find_long,
    is_in_use,
    is_key_of,
    remember,
    remember_long,
    row_of_piece,
    write_ids_of_entry,
    write_ids_of_row,
)
from .splitting import Splitter
from .tables import (
    HASH_KEY,
    NEVER,
    NO_PAIR,
    NO_TOKEN,
    fill_pairs_from_merges,
    fill_pairs_from_ranks,
    fill_token_table,
    find_token,
    hash_bytes,
    room_for,
)

HASH_KEY_OF_TABLES = 7  # which of the tables of a vocabulary is the key
KEPT_BYTES = 1 << 27  # of memory for calls to come; one call's is kept in any case

# ---- encoding ----


@helper
def ask_for_rows(text, i, piece_ends, first, last, masks, remembered, row_mask, slots):
    """Work out the slots of the pieces of a block, and have the processor fetch their rows."""
    for k in range(first, last):
        end = int64_at(piece_ends, k)
        if end - i <= LONGEST_REMEMBERED:
            slot = row_of_piece(text, i, end - i, masks) & row_mask
            put_int64(slots, k - first, slot)
            prefetch(remembered + ROW_BYTES * slot)
        i = end


@helper
def find_row(text, i, length, masks, remembered, row_mask, slot):
    """The row of a piece, looked for from `slot` on, or the empty one where it would go."""
    row = remembered + ROW_BYTES * slot
    while not is_key_of(row, text, i, length, masks) and is_in_use(row):
        slot = (slot + 1) & row_mask
        row = remembered + ROW_BYTES * slot
    return row


@helper
def encode_piece(text, i, length, tables, scratch, out_array, o):
    """Encode a piece that is not remembered: it is a token as a whole, or it is merged.

    returns  the number of its ids, or -1 if the vocabulary lacks one of its bytes
    """
    spelling, starts, table, pairs_array, byte_ids_array, whole_pieces, longest_token, hash_key = (
        tables
    )
    pairs, byte_ids = pairs_array.ctypes.data, byte_ids_array.ctypes.data
    pair_mask = len(pairs_array) - 1
    if whole_pieces and length <= longest_token:
        token = find_token(
            text,
            i,
            length,
            spelling.ctypes.data,
            starts.ctypes.data,
            table.ctypes.data,
            len(table) - 1,
            hash_key,
        )
        if token != NO_TOKEN:
            out_array[o] = token
            return np.int64(1)
    if has_unknown_bytes(text, i, i + length, byte_ids):
        return np.int64(-1)
    if length > SHORT_PIECE:
        end = merge_long(text, i, length, byte_ids, pairs, pair_mask, hash_key, out_array, o)
        return end - o
    symbols = scratch.ctypes.data
    values = symbols + 8 * SHORT_PIECE
    count = merge_short(
        text, i, length, byte_ids, pairs, pair_mask, hash_key, symbols, values, NEVER >> 32
    )
    for j in range(count):
        out_array[o + j] = int64_at(symbols, j)
    return count


@kernel
def encode_pieces(text_array, start, ends, tables, seen, out_array):
    """Encode the pieces of a text: `merges.encode` for each, unless it is remembered.

    text         (N + PADDING,) uint8
    start, ends  the first piece begins at `start`, piece k ends at ends[k]
    tables       of a vocabulary, see `Encoder`
    seen         the arrays of a `PiecesSeen`, updated
    out          (M,) uint32, with room for one id a byte and 8 more
    returns      the number of ids written, or -1 - k if piece k has bytes that the vocabulary lacks
    """
    text, out = text_array.ctypes.data, out_array.ctypes.data
    piece_ends = ends.ctypes.data
    rows_array, long_rows_array, arena_array, used, masks_array, scratch = seen
    masks = masks_array.ctypes.data
    remembered, row_mask = rows_array.ctypes.data, len(rows_array) - 1
    long_rows, long_mask = long_rows_array.ctypes.data, len(long_rows_array) - 1
    arena = arena_array.ctypes.data
    most_rows, most_long_rows = 3 * len(rows_array) // 4, len(long_rows_array) // 2
    slots = scratch.ctypes.data + 16 * SHORT_PIECE
    o = 0
    for first in range(0, len(ends), BLOCK):
        last = min(first + BLOCK, len(ends))
        ask_for_rows(text, start, piece_ends, first, last, masks, remembered, row_mask, slots)
        for k in range(first, last):
            i, start = start, int64_at(piece_ends, k)
            length = start - i
            row = np.int64(0)
            if length <= LONGEST_REMEMBERED:
                slot = int64_at(slots, k - first)
                row = find_row(text, i, length, masks, remembered, row_mask, slot)
                if is_in_use(row):
                    o += write_ids_of_row(row, out, o)
                    continue
            hashed = hash_bytes(text, i, length, tables[HASH_KEY_OF_TABLES])
            entry = find_long(text, i, length, hashed, long_rows, long_mask, arena)
            if entry != 0:
                o += write_ids_of_entry(arena, entry, length, out, o)
                continue

            count = encode_piece(text, i, length, tables, scratch, out_array, o)
            if count < 0:
                return np.int64(-1 - k)
            if length <= LONGEST_REMEMBERED and count <= MOST_IDS_REMEMBERED:
                if used[ROWS_USED] < most_rows:
                    remember(row, text, i, length, masks, out, o, count)
                    used[ROWS_USED] += 1
            elif used[LONG_ROWS_USED] < most_long_rows and used[ARENA_USED] + length + 4 < len(
                arena_array
            ):
                piece, ids = (text, i, length, hashed), (out, o, count)
                begin = used[ARENA_USED]
                used[LONG_ROWS_USED] += 1
                used[ARENA_USED] = remember_long(piece, ids, long_rows, long_mask, arena, begin)
            o += count
    return o


# ---- decoding ----


@kernel
def decoded_length(ids, starts):
    """Add up the bytes of all ids; return -1 - k if ids[k] is not in the vocabulary."""
    total = 0
    for k in range(len(ids)):
        token = np.int64(ids[k])
        if token < 0 or token >= len(starts) - 1 or starts[token + 1] == starts[token]:
            return np.int64(-1 - k)
        total += starts[token + 1] - starts[token]
    return np.int64(total)


@kernel
def decode_ids(ids, spelling_array, starts, out_array):
    """Join the bytes of all ids: `merges.decode`, sixteen bytes at a time.

    out  uint8, with room for 16 bytes more than `decoded_length`
    """
    spelling, out = spelling_array.ctypes.data, out_array.ctypes.data
    o = 0
    for k in range(len(ids)):
        token = np.int64(ids[k])
        begin, end = starts[token], starts[token + 1]
        put_eight_bytes(out, o, eight_bytes_at(spelling, begin))
        put_eight_bytes(out, o + 8, eight_bytes_at(spelling, begin + 8))
        for i in range(begin + 16, end, 8):
            put_eight_bytes(out, o + i - begin, eight_bytes_at(spelling, i))
        o += end - begin


# ---- one vocabulary ----


def padded(text: bytes) -> np.ndarray:
    """The bytes of a text as the kernels want them: (N + PADDING,) uint8."""
    buffer = np.empty(len(text) + PADDING, np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)  # unlike bytes + bytes, releases the GIL
    buffer[len(text) :] = 0
    return buffer


def pieces_of(data: bytes, split: Splitter) -> list[bytes]:
    """Split valid UTF-8 into the pieces that are encoded one by one."""
    room = np.empty(PIECES_AT_ONCE, np.int64)
    ends = [end for some in split(padded(data), len(data), room) for end in some.tolist()]
    return [data[i:j] for i, j in zip([0, *ends], ends)]


class Encoder:
    """The tables of one vocabulary, and the loop that drives the kernels over a text.

    tokens    the bytes of every id from 0 on, special tokens too; b"" where an id is not in use
    ordinary  the ids that are not only special tokens
    merges    rows of left, right and merged id, oldest first, or None: then any two tokens whose
              bytes together are a token merge, the lowest id first
    """

    def __init__(
        self,
        tokens: list[bytes],
        ordinary: list[int],
        merges: list[tuple[int, int, int]] | None,
        whole_pieces: bool,
    ):
        self.starts = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum([len(token) for token in tokens], out=self.starts[1:])
        self.spelling = padded(b"".join(tokens))
        self.ordinary = ids = np.array(ordinary, np.int64)
        table = np.full(room_for(len(ids)), NO_TOKEN, np.int32)
        fill_token_table(ids, self.spelling, self.starts, table, HASH_KEY)
        if merges is None:
            self.pairs = self._pairs_from_ranks(ids, table)
        else:
            self.pairs = np.full((room_for(len(merges)), 2), NO_PAIR)
            rows = np.array(merges, np.int64).reshape(-1, 3)
            fill_pairs_from_merges(rows, self.pairs, HASH_KEY)
        self.byte_ids = np.full(256, NO_TOKEN, np.int32)
        for i in ordinary:
            if len(tokens[i]) == 1:
                self.byte_ids[tokens[i][0]] = i
        longest = max((len(tokens[i]) for i in ordinary), default=0)
        self._tables = (
            self.spelling,
            self.starts,
            table,
            self.pairs,
            self.byte_ids,
            whole_pieces,
            longest,
            HASH_KEY,
        )
        self._free: list[PiecesSeen] = []  # those that no call is using just now
        self.drops_bytes = False  # whether bytes that the vocabulary lacks are left out
        self.unknown: int | None = None  # the id that stands for each of them
        self._has_dropped = False

    def _pairs_from_ranks(self, ids: np.ndarray, table: np.ndarray) -> np.ndarray:
        room = room_for(2 * len(ids))
        while True:
            pairs = np.full((room, 2), NO_PAIR)
            n = fill_pairs_from_ranks(ids, self.spelling, self.starts, table, pairs, HASH_KEY)
            if n >= 0:
                return pairs
            room *= 2

    def encode(self, text: bytes, split: Splitter) -> np.ndarray:
        """Encode a text: (N,) uint32.

        raises  ValueError if the vocabulary lacks a byte of it
        """
        try:
            seen = self._free.pop()
        except IndexError:
            seen = PiecesSeen()
        try:
            return self._encode_with(seen, text, split)
        finally:
            self._keep(seen)

    def _keep(self, seen: PiecesSeen) -> None:
        """Keep what a call has remembered for the next one, unless enough is kept already."""
        kept = sum(other.n_bytes() for other in self._free.copy())
        if not kept or kept + seen.n_bytes() <= KEPT_BYTES:
            self._free.append(seen)

    def encode_pieces(self, pieces: list[bytes]) -> list[int]:
        """Encode pieces of any bytes, as they are."""
        ends = np.cumsum([len(piece) for piece in pieces if piece], dtype=np.int64)
        blocks = [ends] if len(ends) else []
        return self.encode(b"".join(pieces), lambda _text, _n, _room: iter(blocks)).tolist()

    def _encode_with(self, seen: PiecesSeen, text: bytes, split: Splitter) -> np.ndarray:
        buffer = padded(text)
        # A new array costs time, because the system clears its pages; a short text needs none.
        fits = len(text) + 8 <= len(seen.ids)
        out = seen.ids if fits else np.empty(len(text) + 8, np.uint32)
        start = o = 0
        for ends in split(buffer, len(text), seen.ends):
            count = encode_pieces(buffer, start, ends, self._tables, seen.arrays(), out[o:])
            if count < 0:
                if not self.drops_bytes:
                    self._refuse(text, start, ends, -1 - count)
                count = self._encode_lacking(seen, buffer, start, ends, out[o:])
            o += count
            start = int(ends[-1])
            seen.make_room()
        return out[:o].copy() if fits else out[:o]

    def _encode_lacking(self, seen: PiecesSeen, buffer, start: int, ends, out) -> int:
        """As `encode_pieces`, for pieces some of which have bytes that the vocabulary lacks."""
        self._tell_of_dropping()
        o = 0
        while len(ends):
            count = encode_pieces(buffer, start, ends, self._tables, seen.arrays(), out[o:])
            if count >= 0:
                return o + count
            k = -1 - count
            o += encode_pieces(buffer, start, ends[:k], self._tables, seen.arrays(), out[o:])
            begin = int(ends[k - 1]) if k else start
            start, ends = int(ends[k]), ends[k + 1 :]
            ids = self._merge_known(buffer[begin:start].tobytes())
            out[o : o + len(ids)] = ids
            o += len(ids)
        return o

    def _tell_of_dropping(self) -> None:
        if not self._has_dropped:
            self._has_dropped = True
            becomes = "left out" if self.unknown is None else f"given the id {self.unknown}"
            n_lacking = int((self.byte_ids == NO_TOKEN).sum())
            warnings.warn(
                f"this vocabulary lacks {n_lacking} of the 256 bytes; where a text has one it is "
                f"{becomes}, as the tokeniser's file says, and is not decoded again (said once)",
                stacklevel=2,
            )

    def _merge_known(self, piece: bytes) -> list[int]:
        """Merge a piece without the bytes that the vocabulary lacks, or with an id for each.

        It is not looked for as a whole: what is left of it may be a token that it is not.
        """
        known = [self.byte_ids[byte] != NO_TOKEN for byte in piece]
        if self.unknown is None:
            return self._merging.encode_pieces([bytes(compress(piece, known))])
        ids: list[int] = []
        for is_known, run in groupby(zip(piece, known), key=itemgetter(1)):
            stretch = bytes(byte for byte, _ in run)
            is_id = [self.unknown] * len(stretch)
            ids += self._merging.encode_pieces([stretch]) if is_known else is_id
        return ids

    @cached_property
    def _merging(self) -> "Encoder":
        """This vocabulary, without pieces that are taken whole."""
        other = copy.copy(self)
        other._tables = (*self._tables[:5], False, *self._tables[6:])
        other._free = []
        return other

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The last merge of each token, in the order of ids, for a vocabulary without a list."""
        ids = np.sort(self.ordinary[np.diff(self.starts)[self.ordinary] > 1])
        found = halves(self.spelling, self.starts, self.byte_ids, self.pairs, ids, HASH_KEY)
        text = self.spelling.tobytes()
        starts = self.starts.tolist()

        def token(i):
            return text[starts[i] : starts[i + 1]]

        return [(token(left), token(right)) for left, right in found.tolist() if left >= 0]

    def _refuse(self, text: bytes, start: int, ends: np.ndarray, k: int) -> None:
        piece = text[ends[k - 1] if k else start : ends[k]].decode("utf-8", "replace")
        raise ValueError(
            f"{piece!r:.80} is not in this vocabulary of {len(self.starts) - 1} tokens, "
            "nor are all of its bytes; use a tokeniser that has them, such as one made by train"
        )

    def decode(self, ids: np.ndarray) -> bytes:
        """Decode an array of integers.

        raises  ValueError if one of them is not an id of the vocabulary
        """
        length = decoded_length(ids, self.starts)
        if length < 0:
            raise ValueError(
                f"id {ids[-1 - length]} is not in this vocabulary of {len(self.starts) - 1} "
                "tokens; was it made by another tokeniser?"
            )
        out = np.empty(length + 16, np.uint8)
        decode_ids(ids, self.spelling, self.starts, out)
        return out[:length].tobytes()
