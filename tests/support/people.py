"""People whose images a network answers for, and the annotators of these images: what is true of them is known."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax


@dataclass(frozen=True)
class People:
    """A population: some persons are harder than others, and some images than others of the same person."""

    classes: int = 5
    spread: float = 0.5  # standard deviation of the persons' clearness, on the scale of the logarithm
    images: float = 10.0  # of a person, in the mean
    clearness: float = 1.0  # of all images

    @property
    def names(self) -> list[str]:
        """The classes."""
        return [f"class {k}" for k in range(self.classes)]

    def draw(self, rng: np.random.Generator, count: int, votes: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities (N, K), labels (N,) or shares of five votes (N, K), and whose each image is (N,)."""
        each = 1 + rng.poisson(self.images - 1, count)
        of = np.repeat(np.arange(count), each)
        clearness = self.clearness * np.exp(rng.normal(0, self.spread, count))[of]
        logits = 1.6 * clearness[:, None] * rng.normal(0, 1.5, (len(of), self.classes))
        law = softmax(logits, axis=1)
        seen = softmax(1.3 * logits + rng.normal(0, 0.5, logits.shape), axis=1)
        if votes:
            return seen, rng.multinomial(5, law) / 5, of.astype(str)
        labels = (rng.random((len(of), 1)) > law.cumsum(axis=1)).sum(axis=1)
        return seen, np.minimum(labels, self.classes - 1), of.astype(str)
