"""Floor 7: byte-pair encoding of one chunk: merge the pair of lowest id, again and again, whatever the chunk's length.

Both ways below do the same: the leftmost of the pairs that become the lowest id is merged, one at a time, until no pair becomes a token.
Looking through all pairs for each merge is quickest for a word, and quadratic; a heap takes O(n log n) for the word of 100,000 letters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import pairwise

Pair = tuple[int, int]
LONG_CHUNK = 256  # tokens; from here on the heap is quicker


def merge_lowest(ids: list[int], merged: Callable[[Pair], int | None], never: int) -> list[int]:
    """Returns `ids` after all merges; the list itself may change.

    Args:
        merged: the id that a pair becomes, or None. never: above all ids.
    """
    if len(ids) >= LONG_CHUNK:
        return _merge_with_heap(ids, merged)

    def rank(i: int) -> int:
        idx = merged((ids[i], ids[i + 1]))
        return never if idx is None else idx

    ranks = list(map(rank, range(len(ids) - 1)))
    while ranks and (best := min(ranks)) < never:
        i = ranks.index(best)
        ids[i : i + 2] = (best,)
        del ranks[i]
        if i:
            ranks[i - 1] = rank(i - 1)
        if i < len(ranks):
            ranks[i] = rank(i)
    return ids


def _merge_with_heap(ids: list[int], merged: Callable[[Pair], int | None]) -> list[int]:
    """Keeps a heap of (id, place) over a list in which each token knows its neighbours.

    An entry is out of date once its token is gone or stands before another one; then the pair there no longer becomes that id.
    """
    count = len(ids)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))
    heap = [(idx, i) for i, pair in enumerate(pairwise(ids)) if (idx := merged(pair)) is not None]
    heapq.heapify(heap)
    while heap:
        idx, i = heapq.heappop(heap)
        j = after[i]
        if ids[i] < 0 or j == count or merged((ids[i], ids[j])) != idx:
            continue
        ids[i], ids[j], after[i] = idx, -1, after[j]
        if after[j] < count:
            before[after[j]] = i
        for left, right in ((before[i], i), (i, after[i])):
            if left >= 0 and right < count and (made := merged((ids[left], ids[right]))) is not None:
                heapq.heappush(heap, (made, left))
    return [idx for idx in ids if idx >= 0]
