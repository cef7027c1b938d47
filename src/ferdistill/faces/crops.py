"""The crop canary: whether somebody's crops are cut as those that a bundle was trained on, by what it answers.

Every crop is shown to the bundle as it is and changed a little: closer, wider, turned either way, coarser. How much its
answers change by that says how it was cut: of a crop with too much around the face, going closer makes the answer
surer; of a turned one, turning it back does. The means of these figures over the crops are compared with those over
crops of the corpus, of the same predicted classes; Hotelling's T² says whether they differ. If so, the fault that
moves the corpus's own crops to the same place is named.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.special import entr
from scipy.stats import chi2

from .. import workspace
from ..data import index
from ..data.reader import map_images, records_by_path
from ..data.sources import Record
from ..errors import CheckError, UsageError
from ..params import Params
from ..progress import track
from ..runtime import pictures
from ..runtime.classifier import Classifier

Change = Callable[[np.ndarray], np.ndarray]
BATCH = 64
MOST = 600  # crops of a reference; more make it no surer, and slower
LEAST = 50  # crops below which nothing is said
ALARM = 0.002  # share of sets of sound crops that are taken for faulty, by the distribution of T²
DRAWS = 200  # sets of the reference that say how T² spreads


def zoom(factor: float) -> Change:
    """Show so many times as much around the middle; what lies beyond the edge is the edge repeated."""
    return lambda crop: _about_the_middle(crop, 0.0, 1 / factor)


def turn(degrees: float) -> Change:
    """Turn clockwise."""
    return lambda crop: _about_the_middle(crop, -degrees, 1.0)


def coarsen(share: float) -> Change:
    """Reduce the sides to a share, and enlarge again."""

    def change(crop: np.ndarray) -> np.ndarray:
        height, width = crop.shape[:2]
        size = max(2, round(share * width)), max(2, round(share * height))
        small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)

    return change


def swap(crop: np.ndarray) -> np.ndarray:
    """Exchange red and blue."""
    return np.ascontiguousarray(crop[..., ::-1])


def _about_the_middle(crop: np.ndarray, degrees: float, scale: float) -> np.ndarray:
    height, width = crop.shape[:2]
    move = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.warpAffine(crop, move, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


PROBES: dict[str, Change] = {
    "closer": zoom(0.85),
    "wider": zoom(1.2),
    "clockwise": turn(12.0),
    "anticlockwise": turn(-12.0),
    "coarser": coarsen(0.5),
}
FAULTS: dict[str, Change] = {
    "less margin": zoom(0.8),
    "more margin": zoom(1.35),
    "turned clockwise": turn(20.0),
    "turned anticlockwise": turn(-20.0),
    "red and blue exchanged": swap,
    "of a smaller size, enlarged": coarsen(1 / 3),
}


def figures(classifier: Classifier, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of N crops, RGB uint8 (H, W, 3): what the canary goes by, (N, F), and the classes predicted, (N,).

    The entropy of the answer; for each probe, by how much that rises and how far the answer moves (total variation);
    and by how much red exceeds blue, as a share of the range.
    """

    def answers(change: Change | None = None) -> np.ndarray:
        batches = (crops[start : start + BATCH] for start in range(0, len(crops), BATCH))
        found = [pictures.classify(classifier, list(map(change, batch)) if change else batch) for batch in batches]
        return np.concatenate(found).astype(np.float64)

    plain = answers()
    sure = entr(plain).sum(axis=1)
    columns = [sure]
    for change in PROBES.values():
        changed = answers(change)
        columns += [entr(changed).sum(axis=1) - sure, np.abs(changed - plain).sum(axis=1) / 2]
    columns.append(np.array([(crop[..., 0].mean() - crop[..., 2].mean()) / 255 for crop in crops]))
    return np.stack(columns, axis=1), plain.argmax(axis=1)


def crops_of_corpus(settings: Params, corpus: Path) -> tuple[list[np.ndarray], list[str]]:
    """Crops that the bundle was not trained on, of the splits val and calib, and whose each is; at most `MOST`.

    Raises UsageError and CheckError as `data.index.read` and `data.reader.map_images`, or if an image cannot be read.
    """
    rows = index.read(workspace.index_csv(settings.index_tag)).rows
    held = rows[rows["split"].isin(["val", "calib"])]
    held = held.sample(min(MOST, len(held)), random_state=0).sort_values("path")
    records = records_by_path(corpus, settings.classes)
    crops = read(corpus, [records[path] for path in held["path"]])
    return crops, held["subject"].where(held["subject"] != "", held["group"]).tolist()


def read(corpus: Path, records: Sequence[Record]) -> list[np.ndarray]:
    """The pictures of some records of a corpus, RGB uint8 (H, W, 3), as they are.

    Raises as `data.reader.map_images`, and CheckError if an image cannot be read.
    """
    crops = []
    for pixels in map_images(_as_it_is, corpus, records, "reading crops", workers=1):
        if isinstance(pixels, CheckError):
            raise pixels
        crops.append(pixels)
    return crops


def _as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


class Reference:
    """What sound crops look like to a bundle.

    Parameters
    ----------
    crops
        Of the corpus, of people whom the bundle was not trained on, if these can be had.
    people
        Whose each is: sets of crops are drawn by whole people.
    """

    def __init__(
        self, classifier: Classifier, crops: Sequence[np.ndarray], people: Sequence[str], seed: int = 0
    ) -> None:
        self.classifier = classifier
        found, self.predicted = figures(classifier, crops)
        self.people = np.unique(np.asarray(people), return_inverse=True)[1]
        self._ends = np.percentile(found, [1, 99], axis=0)
        self._ends[:, -1] = -1, 1  # not the colours, of which a faulty crop has what no sound one has
        self.figures = self._kept(found)
        spread = self.figures - self._expected(self.predicted)
        deviation = spread.std(axis=0)
        scale = np.where(
            deviation > 0, deviation, np.inf
        )  # what no crop has, as colour in a grey corpus, counts nothing
        values, vectors = np.linalg.eigh(np.cov((spread / scale).T))
        told = values > 1e-3 * values.max()
        self.whiten = (vectors[:, told] / np.sqrt(values[told])) / scale[:, None]
        self.rng = np.random.default_rng(seed)
        self._crops = crops
        self.spread: dict[int, float] = {}

    def _kept(self, found: np.ndarray) -> np.ndarray:
        """Figures within the bulk of the reference's: a few crops that answer wildly move no mean then."""
        return np.clip(found, *self._ends)

    def _expected(self, predicted: np.ndarray, without: np.ndarray | None = None) -> np.ndarray:
        """The means (N, F) of the reference's figures for each predicted class; of a class it lacks, over all."""
        kept = np.ones(len(self.figures), bool) if without is None else ~without
        overall = self.figures[kept].mean(axis=0)
        means = np.tile(overall, (len(self.classifier.classes), 1))
        for label in np.unique(self.predicted[kept]):
            means[label] = self.figures[kept & (self.predicted == label)].mean(axis=0)
        return means[predicted]

    def shift(self, found: np.ndarray, predicted: np.ndarray, without: np.ndarray | None = None) -> np.ndarray:
        """By how much the figures of crops exceed those of the reference, in the mean, (F,)."""
        return np.asarray((self._kept(found) - self._expected(predicted, without)).mean(axis=0))

    @cached_property
    def shifts(self) -> dict[str, np.ndarray]:
        """Where each of `FAULTS` moves the reference's own crops."""
        planted = track(FAULTS.items(), "planting faults", total=len(FAULTS))
        return {
            name: self.shift(*figures(self.classifier, [fault(crop) for crop in self._crops]))
            for name, fault in planted
        }

    def distance(self, shift: np.ndarray) -> float:
        """Mahalanobis' squared distance of a shift from none."""
        return float(((shift @ self.whiten) ** 2).sum())

    def threshold(self, count: int) -> float:
        """The distance of `count` crops from which on they are faulty.

        T² of sets of the reference's own people beside its others says how far it spreads beyond chi-squared, since
        crops of one person are alike.
        """
        if count not in self.spread:
            scaled = []
            for _ in range(DRAWS):
                drawn = np.zeros(len(self.people), bool)
                for person in self.rng.permutation(self.people.max() + 1):
                    drawn |= self.people == person
                    if drawn.sum() >= min(count, len(drawn) / 2):
                        break
                found = self.shift(self.figures[drawn], self.predicted[drawn], drawn)
                size = 1 / (1 / drawn.sum() + 1 / (~drawn).sum())
                scaled.append(size * self.distance(found))
            self.spread[count] = max(1.0, float(np.mean(scaled)) / self.whiten.shape[1])
        size = 1 / (1 / count + 1 / len(self.figures))
        return self.spread[count] * float(chi2.isf(ALARM, self.whiten.shape[1])) / size


def check(reference: Reference, crops: Sequence[np.ndarray]) -> dict[str, Any]:
    """Whether crops are cut as the reference is, and if not, what they look like.

    Returns
    -------
    dict
        `crops`, `sound`, `distance` and the `threshold` that it is held against, and if it is larger `fault`, the
        name of the nearest of `FAULTS`, or None if none is nearer than soundness.

    Raises
    ------
    UsageError
        If there are too few.
    """
    if len(crops) < LEAST:
        raise UsageError(f"{len(crops)} crops are too few to judge by", expected=f"at least {LEAST}, better 200")
    shift = reference.shift(*figures(reference.classifier, crops))
    distance, threshold = reference.distance(shift), reference.threshold(len(crops))
    report: dict[str, Any] = {"crops": len(crops), "sound": distance <= threshold}
    report |= {"distance": distance, "threshold": threshold}
    if not report["sound"]:
        away = {name: reference.distance(shift - planted) for name, planted in reference.shifts.items()}
        nearest = min(away, key=lambda name: away[name])
        report["fault"] = nearest if away[nearest] < distance else None
    return report
