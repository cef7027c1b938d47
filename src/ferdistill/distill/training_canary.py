"""The training canary: do soft labels agree with the labels of the very batches that the student trains on?"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckError

ENOUGH = 2000  # rows after which agreement is judged, or the first epoch if that is shorter
P_VALUE = 1e-3


class TrainingCanary:
    """Counts, batch by batch, which class each teacher names for images of each label.

    Whatever passed the gate, this looks at what arrives in the loss: a slip in indexing or batching shows here. The
    teachers' logits are (M, R, K), as the loss indexes them. Agreement at chance stops the run, if `stops`; a study of
    misalignment must go on.
    """

    def __init__(self, logits: Tensor, teachers: list[str], device: torch.device, stops: bool = True) -> None:
        self.named = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(device, torch.float32)  # (M, R, K)
        self.teachers = teachers
        self.counts = torch.zeros(len(teachers), logits.shape[-1], logits.shape[-1], device=device)
        self.judged, self.rows = not stops, 0

    def see(self, rows: Tensor, labels: Tensor) -> None:
        """Count a batch: `rows` (B,) index the logits, `labels` (B,) are the images' own.

        Raises
        ------
        CheckError
            Once enough was seen, if a teacher agrees with the labels no better than chance.
        """
        hard = F.one_hot(labels, self.counts.shape[-1]).float()
        self.counts += torch.einsum("mbk,bl->mkl", self.named[:, rows], hard)
        self.rows += len(rows)
        if not self.judged and self.rows >= ENOUGH:
            self._judge()

    def epoch(self) -> dict[str, float]:
        """Agreement of each teacher over the epoch, as a share of its rows; counting starts anew."""
        if not self.judged:
            self._judge()
        agreement = {
            f"agreement_{name}": float(counts.trace() / counts.sum())
            for name, counts in zip(self.teachers, self.counts.double(), strict=True)
        }
        self.counts.zero_()
        self.rows = 0
        return agreement

    def _judge(self) -> None:
        self.judged = True
        for name, counts in zip(self.teachers, self.counts.double().cpu(), strict=True):
            share = counts / counts.sum()
            agreement, chance = float(share.trace()), float(share.sum(0) @ share.sum(1))
            deviation = math.sqrt(max(chance * (1 - chance), 1e-12) / self.rows)
            p_value = 0.5 * math.erfc((agreement - chance) / deviation / math.sqrt(2))
            if p_value > P_VALUE:
                raise CheckError(
                    f"soft labels agree with the labels of their images no better than chance: {agreement:.1%} of "
                    f"{self.rows} rows trained on, {chance:.1%} by chance (p = {p_value:.2g})",
                    where=f"teacher {name}",
                    expected=f"more agreement than chance gives, at p < {P_VALUE:g}",
                    hint="run `ferdistill align check`; a teacher that is itself at chance has nothing to teach",
                )
