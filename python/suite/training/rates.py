"""The best learning rate of a size from a sweep, and a rule over sizes. Numbers in, numbers out.

Near its minimum the loss is a parabola in the logarithm of the rate: its vertex is the best rate, and Fieller's theorem
gives the interval, exact for equal normal errors. A vertex outside the rates it was fitted to, or a parabola that bends
the wrong way, is no estimate and is not taken for one. Over sizes, the logarithm of the best rate is a straight line.
All intervals are of 90 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 2  # rates on either side of the lowest loss that the parabola is fitted to
_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)  # Student's t, 1 to 10 degrees of freedom
NORMAL95 = 1.645


@dataclass(frozen=True)
class Best:
    """`low` and `high` are None where the sweep bounds the rate on that side by nothing; `why` says what is wrong with
    a rate that is no estimate, and is empty for one that is."""

    rate: float
    low: float | None
    high: float | None
    loss: float
    why: str = ""


def best_rate(losses: Mapping[float, Sequence[float | None]]) -> Best:
    """losses: for each rate one final loss per seed, None for a run that diverged.

    Raises ValueError when every run diverged.
    """
    rates = sorted(losses)
    whole = {rate: [loss for loss in losses[rate] if loss is not None] for rate in rates}
    # A rate at which one seed diverged is too high, whatever the others say.
    means = [sum(whole[rate]) / len(whole[rate]) if None not in losses[rate] else math.inf for rate in rates]
    lowest = int(np.argmin(means))
    if math.isinf(means[lowest]):
        raise ValueError("every run diverged")
    at, loss = rates[lowest], means[lowest]
    below = rates[lowest - 1] if lowest else None
    above = rates[lowest + 1] if lowest + 1 < len(rates) else None
    if below is None:
        return Best(at, None, above, loss, "the lowest rate is the best: sweep lower ones")
    if above is None:
        return Best(at, below, None, loss, "the highest rate is the best: sweep higher ones")
    if math.isinf(means[lowest + 1]):
        return Best(at, below, above, loss, "the next higher rate diverges")
    near = [i for i in range(len(rates)) if abs(i - lowest) <= NEIGHBOURS and not math.isinf(means[i])]
    x = np.array([math.log(rates[i] / at) for i in near for _ in whole[rates[i]]])
    y = np.array([value for i in near for value in whole[rates[i]]])
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    fit, *_ = np.linalg.lstsq(design, y, rcond=None)
    height, slope, bend = map(float, fit)
    vertex = -slope / (2 * bend) if bend > 0 else math.nan
    if not x.min() <= vertex <= x.max():
        return Best(at, below, above, loss, "the losses around it are no parabola")
    interval = _interval(design, y, fit)
    low, high = (at * math.exp(end) for end in interval) if interval else (None, None)
    return Best(at * math.exp(vertex), low, high, height - slope * slope / (4 * bend))


def _interval(design: np.ndarray, y: np.ndarray, fit: np.ndarray) -> tuple[float, float] | None:
    """Where a + bx + cx^2 may have its vertex: b + 2cx is within t of its own standard errors of 0. None: anywhere."""
    freedom = len(y) - 3
    if freedom < 1:
        return None
    variance = float(((y - design @ fit) ** 2).sum()) / freedom
    t = _T95[freedom - 1] if freedom <= len(_T95) else NORMAL95
    scaled = t * t * variance * np.linalg.inv(design.T @ design)
    b, c = float(fit[1]), float(fit[2])
    quadratic = 4 * (c * c - scaled[2, 2])
    linear, constant = 4 * (b * c - scaled[1, 2]), b * b - scaled[1, 1]
    if quadratic <= 0:  # the bend itself may be 0
        return None
    root = math.sqrt(max(0.0, linear * linear - 4 * quadratic * constant))
    return (-linear - root) / (2 * quadratic), (-linear + root) / (2 * quadratic)


@dataclass(frozen=True)
class Law:
    """rate = scale * (size / centre) ** exponent."""

    scale: float
    exponent: float
    exponent_error: float  # half of its interval
    centre: float
    largest: float  # size that was swept
    _covariance: tuple[tuple[float, float], tuple[float, float]]

    def at(self, size: float) -> tuple[float, float, float]:
        """The rate for a size and its interval, which is true if the law goes on that far."""
        x = math.log(size / self.centre)
        rate = self.scale * math.exp(self.exponent * x)
        (v0, v01), (_, v1) = self._covariance
        width = math.exp(NORMAL95 * math.sqrt(v0 + 2 * v01 * x + v1 * x * x))
        return rate, rate / width, rate * width


def fit_law(sizes: Sequence[float], bests: Sequence[Best]) -> Law | None:
    """A line through the logarithms of estimated best rates, weighted by their intervals; None for fewer than two.

    Where the rates scatter about the line by more than their intervals explain, errors are widened to what they show.
    """
    points = [
        (math.log(size), math.log(best.rate), math.log(best.high / best.low) / 2 / NORMAL95)
        for size, best in zip(sizes, bests, strict=True)
        if not best.why and best.low and best.high
    ]
    if len(points) < 2:
        return None
    x, y, error = np.array(points).T
    error = np.maximum(error, 0.05)  # an interval from few points may be narrow by luck
    weight = error**-2
    centre = float((weight * x).sum() / weight.sum())
    design = np.stack([np.ones_like(x), x - centre], axis=1)
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    fit = covariance @ (design.T @ (weight * y))
    freedom = len(points) - 2
    if freedom:
        covariance = covariance * max(1.0, float((weight * (y - design @ fit) ** 2).sum()) / freedom)
    return Law(
        math.exp(float(fit[0])),
        float(fit[1]),
        NORMAL95 * math.sqrt(float(covariance[1, 1])),
        math.exp(centre),
        max(sizes),
        ((float(covariance[0, 0]), float(covariance[0, 1])), (float(covariance[1, 0]), float(covariance[1, 1]))),
    )
