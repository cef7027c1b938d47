"""How far probabilities are from the truth that they promise: reliability, calibration errors, and what chance does."""

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from ..errors import CheckError

NULL_DRAWS = 200


def check_scored(logits: np.ndarray, truth: np.ndarray) -> None:
    """Check logits (N, K) against labels (N,), integers in 0..K-1, or distributions over the classes (N, K).

    Raises a CheckError on a wrong shape, no rows, labels out of range, distributions that are none, or logits that are
    not finite.
    """
    labels = truth if truth.ndim == 1 else np.zeros(len(truth), np.int64)
    if logits.ndim != 2 or truth.shape not in (logits.shape[:1], logits.shape):
        raise CheckError(
            "logits and labels do not fit together",
            where=f"logits {logits.shape}, labels {truth.shape}",
            expected="logits (N, K) and labels (N,), or distributions (N, K)",
        )
    if len(logits) == 0:
        raise CheckError("nothing to score", where="logits", expected="at least one row", hint="check the split")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise CheckError(
            "labels do not name a class",
            where=f"labels of dtype {labels.dtype}, from {labels.min()} to {labels.max()}",
            expected=f"integers in 0..{logits.shape[1] - 1}",
        )
    if truth.ndim == 2 and not ((truth >= 0).all() and np.allclose(truth.sum(axis=1), 1)):
        raise CheckError("votes that are no distributions", expected="shares of at least 0 that sum to 1")
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise CheckError(
            f"{(~finite).sum()} of {len(logits)} rows hold logits that are not finite",
            where=f"first at row {int(np.argmin(finite))}",
            expected="finite numbers",
            hint="training diverged: lower the learning rate and train again",
        )


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The logarithm of softmax(logits / temperature), float64, shape (N, K)."""
    return log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def expected(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of values (N, K) those of the labels (N,), or their mean under distributions (N, K), as of votes; (N,)."""
    return values[np.arange(len(truth)), truth] if truth.ndim == 1 else (truth * values).sum(axis=1)


def negative_log_likelihood(log_probs: np.ndarray, truth: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats (report §4.1.6, item 3); of votes, in their mean."""
    return float(-expected(log_probs, truth).mean())


def bin_of(values: np.ndarray, bins: int) -> np.ndarray:
    """The equal-width bin on [0, 1] of each value, from 0: a bin holds its lower edge; the last also holds 1.0."""
    return np.digitize(values, np.linspace(0, 1, bins + 1)[1:-1])


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int) -> pd.DataFrame:
    """Confidence against accuracy in bins of the top-label confidence (report §4.1.6, item 1); see `bin_of`.

    Of probabilities (N, K), whose rows sum to 1, and labels (N,) in 0..K-1, or distributions (N, K), under which the
    accuracy is the probability of the predicted class. One row a bin: `low`, `high`, `count`,
    `confidence`, `accuracy`; the last two are NaN where the bin is empty.
    """
    confidence = probabilities.max(axis=1)
    predicted = probabilities.argmax(axis=1)
    correct = predicted == truth if truth.ndim == 1 else truth[np.arange(len(truth)), predicted]
    edges = np.linspace(0, 1, bins + 1)
    places = bin_of(confidence, bins)
    count = np.bincount(places, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count,
            "confidence": np.bincount(places, weights=confidence, minlength=bins) / filled,
            "accuracy": np.bincount(places, weights=correct, minlength=bins) / filled,
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Gap between confidence and accuracy, averaged over samples; in [0, 1].

    `table` comes from `reliability`. Report §4.1.6, item 1; Naeini et al. 2015, Guo et al. 2017 eq. 3.
    """
    gap = (table["accuracy"] - table["confidence"]).abs()
    return float((gap * table["count"]).sum() / table["count"].sum())


def maximum_calibration_error(table: pd.DataFrame) -> float:
    """The largest gap of any bin that is not empty; in [0, 1]. Guo et al. 2017, eq. 5."""
    return float((table["accuracy"] - table["confidence"]).abs().max())


def calibration_gap(places: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> float:
    """|sum of right - confidence| in each bin, over all samples (N,): the ECE, `right` being 1, 0 or a probability."""
    return float(np.abs(np.bincount(places, weights=right - confidence)).sum() / len(confidence))


def null_calibration_errors(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The ECEs that a perfectly calibrated model with these confidences would show, by chance alone.

    In each of `NULL_DRAWS` simulated test sets, sample i is right with probability confidence[i]. An observed ECE
    like these is no sign of miscalibration (Vaicenavicius et al. 2019, "consistency resampling"). `confidence` holds
    top-label probabilities (N,), in any order; the bins are of equal width on [0, 1], and the errors, (NULL_DRAWS,),
    in [0, 1].
    """
    ordered = np.sort(confidence)  # so that the order of the samples cannot change the draws
    rng = np.random.default_rng(0)
    places, draws = bin_of(ordered, bins), (rng.random(len(ordered)) < ordered for _ in range(NULL_DRAWS))
    return np.array([calibration_gap(places, ordered, right) for right in draws])


def consistency_band(
    confidence: np.ndarray, bins: int, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Where each bin's accuracy would lie if these confidences were perfectly calibrated.

    As in `null_calibration_errors`, sample i is right with probability confidence[i], in each of `draws` simulated
    test sets; the share `level` of them, in (0, 1), lies within a bin's band. Bröcker & Smith 2007, "consistency
    bars". One row a bin: `band_low`, `band_high`, in [0, 1]; NaN where the bin is empty.
    """
    ordered = np.sort(confidence)
    # Sorted, so that a bin is a slice.
    edges = np.searchsorted(bin_of(ordered, bins), np.arange(1, bins))
    rng = np.random.default_rng(seed)
    band = np.full((bins, 2), np.nan)
    for row, part in enumerate(np.split(ordered, edges)):
        if len(part):
            # Neighbours within 1/200 of a bin share their mean: exact up to 200 samples, and never far from it.
            slices = np.array_split(part, min(len(part), 200))
            lengths, means = [len(of) for of in slices], [of.mean() for of in slices]
            right = rng.binomial(lengths, means, size=(draws, len(slices))).sum(axis=1)
            band[row] = np.quantile(right / len(part), [(1 - level) / 2, (1 + level) / 2])
    return pd.DataFrame(band, columns=["band_low", "band_high"])
