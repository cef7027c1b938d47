"""What `score`, `robustness`, `monitor` and others draw, as PNG files, alike whatever matplotlib is set to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import UsageError
from ..files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#7F7F7F"  # of Okabe & Ito (2008), told apart in every colour vision


@contextmanager
def png(path: Path, size: tuple[float, float]) -> Iterator["Figure"]:
    """Yield a figure of `size` inches, width and height; write it once the block has drawn it.

    Raises a UsageError if `path` does not end in `.png`, as do those below.
    """
    if path.suffix.lower() != ".png":
        raise UsageError("the picture is a PNG", where=str(path), expected="a name that ends in .png")
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def reliability_diagram(path: Path, rows: Sequence[dict[str, Any]], bins: int, title: str) -> None:
    """Draw accuracy over confidence with the band of a calibrated model, and below it the samples of each bin.

    `rows` are bins that are not empty, of `bins` on [0, 1], with what `calibration.reliability` and `consistency_band`
    give of each.
    """
    from matplotlib.ticker import MaxNLocator

    table = pd.DataFrame(rows)
    with png(path, (6, 7)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfect calibration")
        band = table["confidence"], table["band_low"], table["band_high"]
        upper.vlines(*band, color=GREY, alpha=0.35, linewidth=8, label="where chance puts a calibrated model")
        upper.plot(table["confidence"], table["accuracy"], "o-", color=BLUE, label="accuracy")
        upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="Accuracy", title=title)
        upper.legend(frameon=False, loc="upper left")
        bars = lower.bar((table["low"] + table["high"]) / 2, table["count"], width=0.9 / bins, color=BLUE)
        lower.bar_label(bars, fontsize=7, padding=1)
        lower.margins(y=0.2)
        lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        lower.set(xlabel="Confidence", ylabel="Samples")
        for panel in (upper, lower):
            panel.spines[["top", "right"]].set_visible(False)


def risk_curve(path: Path, table: pd.DataFrame, acting: dict[str, Any] | None, title: str) -> None:
    """Draw the curve of `guarantees.risk_table`, and on it each guaranteed threshold of `acting`, if there is any."""
    with png(path, (6, 4.5)) as figure:
        panel = figure.subplots()
        panel.plot(table["answered"], table["risk"], color=BLUE, label="the most confident answered")
        panel.axhline(table["risk"].iloc[-1], color=GREY, linewidth=1, label="anyone answered")
        for name, on in (acting["measured"]["abstention"] if acting else {}).items():
            if on["errors"] is not None:
                panel.plot(on["answered"], on["errors"], "o", color=ORANGE, label=f"at most {name} guaranteed")
        panel.set(xlim=(0, 1), xlabel="Share answered (coverage)", ylabel="Errors among these (risk)", title=title)
        panel.set_ylim(bottom=0)
        panel.legend(frameon=False, loc="upper left")
        panel.spines[["top", "right"]].set_visible(False)


def robustness(path: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Draw tables of `corruptions.measure`, by the name of the network: a column of panels for each corruption."""
    from matplotlib import colormaps

    corruptions = list(dict.fromkeys(next(iter(tables.values()))["corruption"]))
    rows = {"macro_f1": "Macro F1", "ece": "ECE at T*", "answered": "Share answered", "errors": "Errors among these"}
    with png(path, (2.2 * len(corruptions) + 1, 8)) as figure:
        panels = figure.subplots(len(rows), len(corruptions), sharex=True, sharey="row", squeeze=False)
        for line, (score, heading) in zip(panels, rows.items(), strict=True):
            for panel, corruption in zip(line, corruptions, strict=True):
                for place, (name, table) in enumerate(tables.items()):
                    of = table[table["corruption"] == corruption]
                    colour = BLUE if place == 0 else colormaps["cividis"](place / len(tables))
                    panel.plot(of["step"], of[score], "o-", markersize=3, color=colour, label=name)
                panel.spines[["top", "right"]].set_visible(False)
            line[0].set_ylabel(heading)
            line[0].set_ylim(bottom=0)  # of the row, once all of it is drawn
        for panel, corruption in zip(panels[0], corruptions, strict=True):
            panel.set_title(corruption.replace("_", " "))
        for panel in panels[-1]:
            panel.set(xlabel="Step, 0 for none", xticks=range(6))
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(tables), frameon=False)


def drift(path: Path, report: dict[str, Any], classes: Sequence[str], title: str) -> None:
    """Draw a report of `drift.compare`: predicted classes and bins of the confidence, of log and reference."""
    with png(path, (9, 4)) as figure:
        for panel, name in zip(figure.subplots(1, 2), ("classes", "confidence"), strict=True):
            of = report["tests"][name]
            places = np.arange(len(of["shares"]))
            panel.bar(places - 0.2, of["reference"], 0.4, color=GREY, label="test split")
            panel.bar(places + 0.2, of["shares"], 0.4, color=BLUE, label="log")
            panel.set_title(f"{name}, p = {of['p_holm']:.3g}")
            if name == "classes":
                panel.set_xticks(places, classes, rotation=30, ha="right")
            else:
                panel.set_xticks([])
                panel.set_xlabel("from the least confident tenth of the test split to the most")
            panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
        figure.suptitle(title)


def teacher_diversity(path: Path, report: dict[str, Any], title: str) -> None:
    """Draw a report of `diversity.measure`: who differs from whom, how soft each is, and how far from the truth."""
    names = [*report["teachers"], "fused"]
    scores = [*report["each"].values(), report["fused"]]
    last = ("accuracy", "Accuracy", ORANGE)
    if "kl_from_truth" in report["fused"]:
        last = ("kl_from_truth", "KL from the true distribution (nats)", ORANGE)
    bars = [("entropy", "Mean entropy (nats)", BLUE), last]
    with png(path, (10, 8)) as figure:
        panels = figure.subplots(2, 2)
        for panel, key, heading in (
            (panels[0, 0], "jensen_shannon", "Jensen-Shannon divergence (nats, at most 0.693)"),
            (panels[0, 1], "disagreement", "Share of images they class differently"),
        ):
            values = np.array(report[key])
            panel.imshow(values, cmap="cividis", vmin=0)
            for (row, column), value in np.ndenumerate(values):
                ink = "white" if value < values.max() / 2 or value == 0 else "black"
                panel.text(column, row, f"{value:.3f}", ha="center", va="center", color=ink)
            panel.set_xticks(range(len(values)), report["teachers"], rotation=30, ha="right")
            panel.set_yticks(range(len(values)), report["teachers"])
            panel.set_title(heading)
        for panel, (key, heading, colour) in zip(panels[1], bars, strict=True):
            drawn = panel.barh(names, [of[key] for of in scores], color=[colour] * len(report["teachers"]) + [GREY])
            panel.bar_label(drawn, fmt="%.3f", padding=3)
            panel.margins(x=0.15)
            panel.invert_yaxis()
            panel.set_title(heading)
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(title)
