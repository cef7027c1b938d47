"""The training canary: do soft labels agree with the labels of the very batches that the student trains on?"""

import math

import torch
from torch import Tensor

from ..errors import CheckError

ENOUGH = 2000  # rows after which agreement is judged, or the first epoch if that is shorter
FEW = 500  # of these, rows with a label that a teacher covers: with fewer it is judged at the end of the epoch
LEAST = 30  # rows of an epoch, below which nothing is said: a partial teacher may have so few
P_VALUE = 1e-3


class TrainingCanary:
    """Counts, batch by batch, how often each teacher names the label of an image.

    Whatever passed the gate, this looks at what arrives in the loss: a slip in indexing or batching shows here.
    Agreement at chance stops the run, if `stops`; a study of misalignment must go on.

    Parameters
    ----------
    named : int, (M, R)
        The class that each teacher names, as `named_classes` gives it: for each of the rows that the loss indexes.
    """

    def __init__(
        self, named: Tensor, teachers: list[str], classes: int, device: torch.device, stops: bool = True
    ) -> None:
        self.named, self.teachers = named.to(device), teachers
        # Of rows that a teacher covers: those named and those labelled as each class, and those named as labelled.
        self.counts = torch.zeros(len(teachers), 2, classes + 1, dtype=torch.int64, device=device)
        self.agreeing = torch.zeros(len(teachers), dtype=torch.int64, device=device)
        self.unjudged, self.rows = set(teachers) if stops else set(), 0

    def see(self, rows: Tensor, labels: Tensor) -> None:
        """Count a batch: `rows` (B,) index the teachers' rows, `labels` (B,) are the images' own.

        Raises
        ------
        CheckError
            Once enough was seen, if a teacher agrees with the labels no better than chance.
        """
        named = self.named[:, rows].long()
        known = (named >= 0) & (labels >= 0)
        # What is not known is counted behind the classes.
        classes = torch.stack([named, labels.expand_as(named)], 1).where(known[:, None], self.counts.shape[2] - 1)
        first = torch.arange(self.counts[..., 0].numel(), device=named.device).reshape(len(named), 2, 1)
        # In one dimension, since a GPU adds up in more by an order that varies.
        places = (first * self.counts.shape[2] + classes).flatten()
        self.counts.view(-1).scatter_add_(0, places, torch.ones_like(places))
        self.agreeing += ((named == labels) & known).sum(1)
        self.rows += len(rows)
        if self.unjudged and self.rows >= ENOUGH > self.rows - len(rows):
            self._judge(FEW)

    def epoch(self) -> dict[str, float]:
        """Agreement of each teacher over the epoch, as a share of the rows that it covers; counting starts anew."""
        self._judge(LEAST)
        rows = self.counts[:, 0, :-1].sum(1).clamp(min=1)
        agreement = (self.agreeing.double() / rows).tolist()
        self.counts.zero_()
        self.agreeing.zero_()
        self.rows = 0
        return {f"agreement_{name}": share for name, share in zip(self.teachers, agreement, strict=True)}

    def _judge(self, least: int) -> None:
        for name, counts, agreeing in zip(self.teachers, self.counts.cpu(), self.agreeing.tolist(), strict=True):
            rows = int(counts[0, :-1].sum())
            if name not in self.unjudged or rows < least:
                continue
            self.unjudged.remove(name)
            named, labelled = counts[:, :-1].double() / rows
            agreement, chance = agreeing / rows, float(named @ labelled)
            deviation = math.sqrt(max(chance * (1 - chance), 1e-12) / rows)
            p_value = 0.5 * math.erfc((agreement - chance) / deviation / math.sqrt(2))
            if p_value > P_VALUE:
                raise CheckError(
                    f"soft labels agree with the labels of their images no better than chance: {agreement:.1%} of "
                    f"{rows} rows trained on, {chance:.1%} by chance (p = {p_value:.2g})",
                    where=f"teacher {name}",
                    expected=f"more agreement than chance gives, at p < {P_VALUE:g}",
                    hint="run `ferdistill align check`; a teacher that is itself at chance has nothing to teach",
                )


def named_classes(logits: Tensor) -> Tensor:
    """The class of the greatest logit of (M, R, K), int32 (M, R); -1 where a partial teacher has no row."""
    return logits.argmax(-1).int().where(~logits[..., 0].isnan(), -1)
