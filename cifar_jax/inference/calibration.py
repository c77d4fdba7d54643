"""Calibration: how well the confidence of a network matches its accuracy."""

import dataclasses

import numpy as np

BINS = 15


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Predictions in bins of equal width by confidence (the probability of the predicted class).

    Attributes:
      count: int [BINS], predictions in each bin; bin i holds confidences in (i, i + 1] / BINS.
      confidence: float [BINS], mean confidence in each bin; 0 in an empty bin.
      accuracy: float [BINS], share of correct predictions in each bin; 0 in an empty bin.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """The expected calibration error: |accuracy - confidence|, averaged over predictions.

        Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.sum(self.count * gaps) / self.count.sum())

    def to_dict(self) -> dict:
        """The expected error and the bins that are not empty, as JSON values."""
        bins = [
            {
                "confidence_above": i / BINS,
                "images": int(self.count[i]),
                "confidence": float(self.confidence[i]),
                "accuracy": float(self.accuracy[i]),
            }
            for i in np.flatnonzero(self.count)
        ]
        return {"expected_calibration_error": self.expected_error, "bins": bins}


def calibrate(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """The calibration of probabilities float [N, C] against the true classes int [N]."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    filled = np.maximum(count, 1)
    return Calibration(
        count,
        np.bincount(place, confidence, BINS) / filled,
        np.bincount(place, right, BINS) / filled,
    )
