"""A heap: of many items, the one that goes first is on top; the others are sorted only as far as
that takes.

An item may be a number or a tuple, kept in an array of any kind. So the callers hand in three
helpers, which numba makes part of their kernels:

    goes_before(a, b)         whether item a goes before item b
    item_at(heap, i)          the item at place i
    put_item(heap, i, item)   write an item there

Each item goes before its four children, at places 4 i + 1 … 4 i + 4. (Four lie side by side in
memory, and the heap is half as high as with two.)
"""

from .kernels import helper


@helper
def heap_push(heap, size, item, goes_before, item_at, put_item):
    """Put an item in the heap of `size` items, which has room for it."""
    i = size
    while i > 0:
        parent = (i - 1) >> 2
        above = item_at(heap, parent)
        if not goes_before(item, above):
            break
        put_item(heap, i, above)
        i = parent
    put_item(heap, i, item)


@helper
def heap_sink(heap, size, item, goes_before, item_at, put_item):
    """Replace the top item by another and let it sink to where it belongs."""
    i = 0
    while 4 * i + 1 < size:
        place = 4 * i + 1
        first = item_at(heap, place)
        for k in range(place + 1, min(place + 4, size)):
            child = item_at(heap, k)
            if goes_before(child, first):
                place, first = k, child
        if not goes_before(first, item):
            break
        put_item(heap, i, first)
        i = place
    put_item(heap, i, item)
