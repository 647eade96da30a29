"""Sums whose rounding does not depend on how many workers took part: a fixed binary tree over a batch's slices.

Addition of floats is commutative but not associative, so only the order counts. A batch of S slices is halved while S
is even; what is left, an odd number, is summed from left to right. A worker that holds an aligned power-of-two part of
the batch computes a whole branch of that tree, and branches of neighbours are added pairwise: 1, 2 and 4 workers do
the same additions. log2(S) sums are held at a time.
"""

from __future__ import annotations

from torch import Tensor


def shape_of(slices: int) -> tuple[int, int]:
    """How many slices make a leaf (odd), and how many leaves there are (a power of two)."""
    leaves = slices & -slices
    return slices // leaves, leaves


class Tree:
    """Takes leaves from left to right and adds each pair of equal branches as soon as it has both."""

    def __init__(self) -> None:
        self._branches: list[tuple[int, Tensor]] = []

    def add(self, leaf: Tensor) -> None:
        """The leaf's memory is the tree's from here on."""
        level = 0
        while self._branches and self._branches[-1][0] == level:
            _, left = self._branches.pop()
            leaf = left.add_(leaf)
            level += 1
        self._branches.append((level, leaf))

    def total(self) -> Tensor:
        assert len(self._branches) == 1, "the number of leaves is a power of two"
        return self._branches[0][1]
