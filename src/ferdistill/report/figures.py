"""The study report's figures, as SVG: same numbers, same bytes.

Colours are of Okabe & Ito (2008); nothing is told by colour alone. Text is drawn as outlines, so that a page looks the
same wherever it is opened.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6E6E6E",
)  # fmt: skip
COLOURS = [BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#000000", GREY]
DASHES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
HATCHES = ["", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "---"]
WIDTH = 5.8  # inches: still readable on a telephone's 390 points
STYLE = {
    "svg.hashsalt": "ferdistill",
    "svg.fonttype": "path",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "grid.color": "0.92",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}


@contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Yield a figure of `width` by `height` inches, and what holds it as SVG, without date or program, once drawn."""
    with matplotlib.style.context(["default", STYLE], after_reset=True):
        figure, file = Figure(figsize=(width, height), layout="constrained"), io.BytesIO()
        yield figure, file
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def line(number: int) -> dict[str, Any]:
    """Colour, dash and marker of the line of that number."""
    looks = {"color": COLOURS, "linestyle": DASHES, "marker": MARKERS}
    return {name: values[number % len(values)] for name, values in looks.items()}


def rows_down(axes: Axes, labels: Sequence[str]) -> None:
    """Name rows along the y axis, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def forest(rows: Sequence[dict[str, Any]], label: str, scale: float = 100.0) -> bytes:
    """Differences with intervals, a row each, from the top.

    Parameters
    ----------
    rows : sequence of dict
        `label`; `mean`; `low` and `high`, the ends of the interval, or None; `points`, single differences (may be
        empty); `null` (optional), true for pairs that nothing tells apart; `reference` (optional), a published value.
    label : str
        Of the axis.
    scale : float
        Values are shown times this: 100 turns fractions into points.
    """
    with drawing(0.28 * len(rows) + 0.75) as (figure, file):
        axes = figure.subplots()
        axes.axvline(0, color="black", linewidth=0.8)
        for y, row in enumerate(rows):
            if row.get("null"):
                axes.axhspan(y - 0.5, y + 0.5, color="0.93", zorder=0)
            points = scale * np.asarray(row["points"], float)
            axes.plot(points, np.full(len(points), y), "|", color=GREY, markersize=7, zorder=2)
            clear = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
            colour = (BLUE if row["mean"] > 0 else RED) if clear else "black"
            if row["low"] is not None:
                axes.plot([scale * row["low"], scale * row["high"]], [y, y], color=colour, linewidth=1.6, zorder=3)
            filling = colour if clear else "white"
            axes.plot(scale * row["mean"], y, "o", color=colour, markerfacecolor=filling, markersize=6, zorder=4)
            if row.get("reference") is not None:
                axes.plot(scale * row["reference"], y, "D", color=ORANGE, markeredgecolor="black", zorder=5)
        rows_down(axes, [row["label"] for row in rows])
        axes.set_xlabel(label)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    return file.getvalue()


def reliability(panels: Sequence[dict[str, Any]]) -> bytes:
    """Small multiples: `title`, and the tables `before` and `after` of `evaluation.calibration.reliability`.

    Marks grow with the images of their bin, so that a bin of one image does not catch the eye.
    """
    columns = min(3, len(panels))
    count = -(-len(panels) // columns)
    with drawing(1.95 * count + 0.7, width=WIDTH * columns / 3 if columns > 1 else 3.0) as (figure, file):
        grid = figure.subplots(count, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
            for key, colour, dash, marker in (("before", ORANGE, "--", "o"), ("after", BLUE, "-", "s")):
                table = panel[key][panel[key]["count"] > 0]
                axes.plot(table["confidence"], table["accuracy"], dash, color=colour, linewidth=1, alpha=0.6)
                sizes = 2 + 38 * table["count"] / table["count"].max()
                axes.scatter(
                    table["confidence"], table["accuracy"], s=sizes, marker=marker, color=colour, linewidth=0,
                    label=f"{key} scaling", zorder=3,
                )  # fmt: skip
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_title(panel["title"], fontsize=9)
        figure.supxlabel("confidence", fontsize=10.5)
        figure.supylabel("accuracy", fontsize=10.5)
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return file.getvalue()


def _matrix(axes: Axes, values: np.ndarray, texts: Any, bold: np.ndarray, fontsize: float, **look: Any) -> None:
    """Colours with a text on each, black or white, whichever has more contrast (relative luminance of WCAG 2)."""
    image = axes.imshow(values, **look)
    for (row, column), value in np.ndenumerate(values):
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in image.to_rgba(value)[:3]
        )
        axes.text(
            column, row, texts[row, column], ha="center", va="center", fontsize=fontsize,
            color="black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white",
            weight="bold" if bold[row, column] else "normal",
        )  # fmt: skip
    axes.spines[:].set_visible(False)


def heatmap(values: pd.DataFrame, marks: pd.DataFrame, label: str) -> bytes:
    """Signed numbers with their values written in; those of `marks` are bold and starred."""
    limit = max(float(np.nanmax(np.abs(values.to_numpy()))), 1e-9)
    texts = values.map("{:+.1f}".format) + marks.replace({True: "*", False: ""})
    with drawing(0.27 * len(values) + 1.2) as (figure, file):
        axes = figure.subplots()
        look = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit, "aspect": "auto"}
        _matrix(axes, values.to_numpy(), texts.to_numpy(), marks.to_numpy(bool), 8.5, **look)
        axes.set_xticks(range(values.shape[1]), [str(name) for name in values.columns], rotation=35, ha="right")
        axes.set_yticks(range(len(values)), [str(name) for name in values.index])
        axes.set_title(label)
    return file.getvalue()


def confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> bytes:
    """Counts (K, K), actual by predicted, drawn as the share of each row."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = np.vectorize(lambda share: f"{100 * share:.0f}")(shares)
    with drawing(4.6) as (figure, file):
        axes = figure.subplots()
        _matrix(axes, shares, texts, np.zeros(shares.shape, bool), 9, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(classes)), classes, rotation=35, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted", ylabel="actual", title=title)
    return file.getvalue()


def pareto(points: Sequence[dict[str, Any]], x: str, y: str) -> bytes:
    """Dicts of `x`, `y`, `label`, `teachers` (a number), `front`, `name_it`, on axes of the names given."""
    with drawing(4.6) as (figure, file):
        axes = figure.subplots()
        counts = sorted({point["teachers"] for point in points})
        for number, count in enumerate(counts):
            some = [point for point in points if point["teachers"] == count]
            look = {name: value for name, value in line(number).items() if name != "linestyle"}
            axes.scatter(
                [point["x"] for point in some], [point["y"] for point in some], s=34, **look,
                edgecolor="black", linewidth=0.5, label=f"{count} teacher{'' if count == 1 else 's'}", zorder=3,
            )  # fmt: skip
        front = sorted((point for point in points if point["front"]), key=lambda point: point["x"])
        axes.step(
            [point["x"] for point in front], [point["y"] for point in front],
            where="post", color="0.4", linestyle="--", linewidth=1, label="Pareto front", zorder=2,
        )  # fmt: skip
        named = sorted((point for point in points if point["name_it"]), key=lambda point: -point["y"])
        for number, point in enumerate(named):
            axes.annotate(
                point["label"], (point["x"], point["y"]), xytext=(1.02, 0.97 - 0.075 * number),
                textcoords="axes fraction", va="center", fontsize=8.5,
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6},
            )  # fmt: skip
        axes.set(xlabel=x, ylabel=y)
        axes.grid()
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return file.getvalue()


def curves(panels: Sequence[tuple[str, dict[str, pd.DataFrame]]]) -> bytes:
    """For each panel a title and, by name, a frame of epochs by runs: the mean as a line, the range as a band."""
    with drawing(2.5 * len(panels) + 0.9) as (figure, file):
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)
        for axes, (title, lines) in zip(grid.flat, panels, strict=True):
            for number, (name, runs) in enumerate(lines.items()):
                look = line(number)
                low, high = runs.min(axis=1), runs.max(axis=1)
                axes.fill_between(runs.index, low, high, color=look["color"], alpha=0.12, linewidth=0)
                axes.plot(runs.index, runs.mean(axis=1), **look, markersize=3.5, linewidth=1.3, label=name)
            axes.set_ylabel(title)
            axes.grid()
        grid.flat[-1].set_xlabel("epoch")
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return file.getvalue()


def sweep(lines: dict[str, pd.DataFrame], x: str, y: str) -> bytes:
    """For each name a frame with columns `x`, `y` and `name` (may be empty): single runs, and their means as a line."""
    with drawing(3.9) as (figure, file):
        axes = figure.subplots()
        for number, (name, runs) in enumerate(lines.items()):
            look = line(number)
            means = runs.groupby("x")["y"].mean()
            single = {"color": look["color"], "alpha": 0.35, "markersize": 4, "markeredgewidth": 0}
            axes.plot(runs["x"], runs["y"], look["marker"], **single)
            axes.plot(means.index, means, **look, label=name)
        axes.set(xlabel=x, ylabel=y, xticks=sorted({value for runs in lines.values() for value in runs["x"]}))
        axes.grid()
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=2)
    return file.getvalue()


def project(mixtures: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The plane on which mixtures lie furthest apart (principal components).

    Parameters
    ----------
    mixtures : (P, M) array
        Rows sum to 1, a point of the simplex each.

    Returns
    -------
    points : (P, 2) array
    corners : (M, 2) array
        Where each teacher alone would be.
    kept : float
        Share of the points' squared distances that the plane keeps; in [0, 1].
    """
    centre = mixtures.mean(axis=0)
    _, sizes, directions = np.linalg.svd(mixtures - centre, full_matrices=True)
    plane = np.zeros((2, mixtures.shape[1]))
    plane[: min(2, len(directions))] = directions[:2]
    largest = np.abs(plane).argmax(axis=1)
    plane *= np.where(plane[np.arange(2), largest] < 0, -1, 1)[:, None]  # the sign of a component is arbitrary
    total = float((sizes**2).sum())
    kept = float((sizes[:2] ** 2).sum()) / total if total > 0 else 1.0
    return (mixtures - centre) @ plane.T, (np.eye(mixtures.shape[1]) - centre) @ plane.T, kept


def simplex(names: Sequence[str], mixtures: np.ndarray, teachers: Sequence[str]) -> bytes:
    """Mixtures (P, M) as points on `project`'s plane, and below as bars of their weights: nothing is lost."""
    points, corners, _ = project(mixtures)
    with drawing(0.27 * len(names) + 5.2) as (figure, file):
        above, below = figure.subplots(2, 1, height_ratios=[3.4, 0.27 * len(names) + 0.4])
        _simplex_plane(above, points, corners, teachers)
        left = np.zeros(len(names))
        for number, teacher in enumerate(teachers):
            weights = mixtures[:, number]
            below.barh(
                range(len(names)), weights, left=left, color=COLOURS[number % len(COLOURS)], edgecolor="white",
                hatch=HATCHES[number % len(HATCHES)], label=teacher, height=0.72,
            )  # fmt: skip
            left += weights
        rows_down(below, [f"{number + 1}  {name}" for number, name in enumerate(names)])
        below.set(xlim=(0, 1), xlabel="weight of each teacher")
        figure.legend(*below.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return file.getvalue()


def _simplex_plane(axes: Axes, points: np.ndarray, corners: np.ndarray, teachers: Sequence[str]) -> None:
    for i in range(len(corners)):
        for j in range(i):
            axes.plot(*corners[[i, j]].T, color="0.8", linewidth=0.9, zorder=1)
    middle = corners.mean(axis=0)
    for corner, teacher in zip(corners, teachers, strict=True):
        away = corner - middle
        axes.annotate(
            teacher, corner, xytext=9 * away / max(float(np.hypot(*away)), 1e-9), textcoords="offset points",
            ha="left" if away[0] > 0 else "right", va="bottom" if away[1] > 0 else "top", color="0.25",
        )  # fmt: skip
    axes.plot(*corners.T, "s", color="0.6", markersize=5, zorder=2)
    for number, point in enumerate(points):
        axes.plot(*point, "o", color=BLUE, markersize=14, markeredgecolor="white", zorder=3)
        axes.text(point[0], point[1], str(number + 1), ha="center", va="center", color="white", fontsize=9, zorder=4)
    axes.set_aspect("equal")
    axes.margins(0.22, 0.16)
    axes.set_axis_off()
