"""The calibration part of the evaluation page: the reliability diagram as coordinates, and its summary."""

import dataclasses

import numpy as np

from cifar_jax.inference import BINS, Calibration, Result


@dataclasses.dataclass(frozen=True)
class Frame:
    """The size of the drawing, and where its two charts are: accuracy above, counts below."""

    width: int = 560
    height: int = 500
    left: int = 60
    right: int = 546
    top: int = 12
    bottom: int = 320
    counts_top: int = 368
    counts_bottom: int = 442

    def x(self, share: float) -> float:
        return round(self.left + share * (self.right - self.left), 2)

    def y(self, share: float) -> float:
        return round(self.bottom - share * (self.bottom - self.top), 2)


FRAME = Frame()


@dataclasses.dataclass(frozen=True)
class Summary:
    """The calibration in a few numbers.

    Attributes:
      error: the expected calibration error, a fraction.
      confidence: the mean confidence of all predictions.
      accuracy: the share of correct predictions.
      tendency: "overconfident" or "underconfident"; "" if confidence and accuracy agree to 0.01 %.
    """

    error: float
    confidence: float
    accuracy: float
    tendency: str


@dataclasses.dataclass(frozen=True)
class Tick:
    """A share on both axes: where it is on the horizontal and on the vertical one."""

    x: float
    y: float
    text: str


@dataclasses.dataclass(frozen=True)
class Box:
    left: float
    top: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True)
class Bin:
    """The predictions with a confidence in (low, high], and the three bars that show them."""

    index: int
    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    accuracy_bar: Box
    gap_bar: Box
    count_bar: Box


@dataclasses.dataclass(frozen=True)
class Diagram:
    """The bins that are not empty. `most` is their highest count."""

    ticks: list[Tick]
    bins: list[Bin]
    most: int


def summary(result: Result) -> Summary:
    """Sums up the calibration of a result."""
    calibration = result.calibration
    mean = float(np.sum(calibration.count * calibration.confidence) / calibration.count.sum())
    if round(100 * mean, 2) == round(100 * result.accuracy, 2):
        tendency = ""
    else:
        tendency = "overconfident" if mean > result.accuracy else "underconfident"
    return Summary(calibration.expected_error, mean, result.accuracy, tendency)


def diagram(calibration: Calibration) -> Diagram:
    """The coordinates of the reliability diagram in `FRAME`."""
    ticks = [
        Tick(FRAME.x(share), FRAME.y(share), f"{100 * share:.0f} %")
        for share in np.linspace(0, 1, 6).tolist()
    ]
    most = int(calibration.count.max())
    filled = np.flatnonzero(calibration.count).tolist()
    return Diagram(ticks, [_bin(calibration, i, most) for i in filled], most)


def _bin(calibration: Calibration, i: int, most: int) -> Bin:
    count = int(calibration.count[i])
    accuracy, confidence = float(calibration.accuracy[i]), float(calibration.confidence[i])
    lower, higher = sorted((accuracy, confidence))
    height = count / most * (FRAME.counts_bottom - FRAME.counts_top)
    count_top = float(np.round(FRAME.counts_bottom - height, 2))
    return Bin(
        index=i,
        low=i / BINS,
        high=(i + 1) / BINS,
        count=count,
        confidence=confidence,
        accuracy=accuracy,
        accuracy_bar=_bar(i, FRAME.y(accuracy), FRAME.bottom, inset=1),
        gap_bar=_bar(i, FRAME.y(higher), FRAME.y(lower), inset=2.5),
        count_bar=_bar(i, count_top, FRAME.counts_bottom, inset=1),
    )


def _bar(i: int, top: float, bottom: float, inset: float) -> Box:
    """The bar of bin i, narrower than the bin by `inset` on each side."""
    left, right = FRAME.x(i / BINS), FRAME.x((i + 1) / BINS)
    return Box(left + inset, top, right - left - 2 * inset, max(bottom - top, 0))
