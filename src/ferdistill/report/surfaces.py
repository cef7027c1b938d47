"""The picture of a response surface over the simplex of teachers' weights."""

from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..study.mixture import Surface
from ..study.schema import title_of
from .figures import WIDTH, drawing, line

STEPS = 24  # along an edge
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
TRIANGLES = 4  # that are drawn: of four teachers there are as many


def surface(found: dict[str, Any], places: dict[str, dict[str, Any]]) -> bytes:
    """Triangles of the simplex, a teacher a corner, and how the score changes from equal parts to each alone.

    `found` is of `mixture.fit`, `places` by name of `mixture.place`. On a triangle stand the mixtures of its three
    teachers alone, those that were run as circles and places as squares. Below, a band is the 95 % interval of the
    mean, and places stand at their heights.
    """
    fitted: Surface = found["surface"]
    size = len(fitted.teachers)
    triangles = list(combinations(range(size), 3))[:TRIANGLES]
    rows = -(-len(triangles) // 2)
    with drawing(2.2 * rows + 3.2, width=WIDTH) as (figure, file):
        grid = figure.add_gridspec(rows + 1, 2)
        lattice = np.array([row for row in np.ndindex(STEPS + 1, STEPS + 1, STEPS + 1) if sum(row) == STEPS]) / STEPS
        values = []
        for triple in triangles:
            weights = np.zeros((len(lattice), size))
            weights[:, triple] = lattice
            values.append(fitted.at(weights)[0])
        everywhere = np.concatenate(values) if values else np.zeros(1)
        levels = np.linspace(everywhere.min(), everywhere.max() + 1e-12, 13)
        drawn = None
        panels = [figure.add_subplot(grid[at // 2, at % 2]) for at in range(len(triangles))]
        for axes, triple, scores in zip(panels, triangles, values, strict=True):
            x, y = (lattice @ CORNERS).T
            drawn = axes.tricontourf(x, y, scores, levels=levels, cmap="viridis")
            _marks(axes, [fitted.teachers[at] for at in triple], found["points"], places)
        if drawn is not None:
            figure.colorbar(drawn, ax=panels, shrink=0.8, format="%.3f", label=title_of(found["metric"]))
        _traces(figure.add_subplot(grid[rows, :]), fitted, title_of(found["metric"]), places)
    return file.getvalue()


def _marks(axes: Axes, teachers: list[str], points: list[dict[str, Any]], places: dict[str, dict[str, Any]]) -> None:
    """Corners by name, and what lies on this triangle."""
    for name, corner, side in zip(teachers, CORNERS, ("top", "top", "bottom"), strict=True):
        axes.annotate(
            name,
            (corner[0], corner[1]),
            xytext=(0, 3 if side == "bottom" else -3),
            textcoords="offset points",
            va=side,
            ha="center",
            fontsize=8,
        )

    def on_triangle(one: dict[str, Any]) -> np.ndarray | None:
        inside = set(one["weights"]) <= set(teachers)
        return np.array([one["weights"].get(name, 0.0) for name in teachers]) @ CORNERS if inside else None

    for one in points:
        if (at := on_triangle(one)) is not None:
            axes.plot(*at, "o", color="white", markeredgecolor="black", markersize=5, clip_on=False)
    for name, one in places.items():
        if (at := on_triangle(one)) is not None:
            axes.plot(*at, "s", color="white", markeredgecolor="black", markersize=7, clip_on=False)
            axes.annotate(
                name,
                (at[0], at[1]),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=8,
                color="white",
                weight="bold",
            )
    axes.set_aspect("equal")
    axes.set_axis_off()


def _traces(axes: Axes, fitted: Surface, title: str, places: dict[str, dict[str, Any]]) -> None:
    """Along the line from none of a teacher, the others in equal parts, to it alone (Cox's direction).

    On the right the heights of the places, which may lie on none of these lines.
    """
    size, share = len(fitted.teachers), np.linspace(0, 1, 41)
    for number, name in enumerate(fitted.teachers):
        weights = np.repeat((1 - share)[:, None] / (size - 1), size, axis=1)
        weights[:, number] = share
        value, error = fitted.at(weights)
        look = line(number)
        half = fitted.quantile * error
        axes.fill_between(share, value - half, value + half, color=look["color"], alpha=0.12, linewidth=0)
        axes.plot(share, value, color=look["color"], linestyle=look["linestyle"], label=name)
    for name, one in places.items():
        axes.annotate(f"– {name}", (1, one["fitted"]), annotation_clip=False, va="center", fontsize=8.5)
    axes.axvline(1 / size, color="0.6", linewidth=0.8)
    axes.set(xlabel="weight of one teacher, the others in equal parts", ylabel=title, xlim=(0, 1))
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(ncols=2, fontsize=8.5)
