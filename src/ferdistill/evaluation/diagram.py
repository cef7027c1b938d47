"""The reliability diagram as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .png import BLUE, GREY, png


def picture(path: Path, rows: Sequence[dict[str, Any]], bins: int, title: str) -> None:
    """Draw accuracy over confidence with the band of a calibrated model, and below it the samples of each bin.

    Parameters
    ----------
    path : Path
        A `.png`.
    rows : sequence of dict
        A bin each: `low`, `high`, `count`, `confidence`, `accuracy`, `band_low`, `band_high`.
    bins : int
        Of equal width on [0, 1].
    title : str

    Raises
    ------
    UsageError
        If `path` does not end in `.png`.
    """
    from matplotlib.ticker import MaxNLocator

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    with png(path, (6, 7)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfect calibration")
        upper.vlines(
            column("confidence"),
            column("band_low"),
            column("band_high"),
            color=GREY,
            alpha=0.35,
            linewidth=8,
            label="where chance puts a calibrated model",
        )
        upper.plot(column("confidence"), column("accuracy"), "o-", color=BLUE, label="accuracy")
        upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="Accuracy", title=title)
        upper.legend(frameon=False, loc="upper left")
        middles = [(row["low"] + row["high"]) / 2 for row in rows]
        bars = lower.bar(middles, column("count"), width=0.9 / bins, color=BLUE)
        lower.bar_label(bars, fontsize=7, padding=1)
        lower.margins(y=0.2)
        lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        lower.set(xlabel="Confidence", ylabel="Samples")
        for panel in (upper, lower):
            panel.spines[["top", "right"]].set_visible(False)
