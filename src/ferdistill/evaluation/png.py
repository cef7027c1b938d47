"""Pictures as PNG files, drawn alike whatever matplotlib is set to where they are drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#7F7F7F"  # of Okabe & Ito (2008), told apart in every colour vision


@contextmanager
def png(path: Path, size: tuple[float, float]) -> Iterator["Figure"]:
    """Yield a figure of `size` inches, width and height; write it once the block has drawn it.

    Raises
    ------
    UsageError
        If `path` does not end in `.png`.
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
