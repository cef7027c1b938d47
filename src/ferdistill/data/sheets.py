"""Contact sheets: what the index took for copies, and what each class looks like.

They show the images, so they belong with the data, in the DVC cache, and not in git.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic
from .index import Index
from .reader import records_by_path
from .sources import Record, decode

TILE, CAPTION, MARGIN = 72, 14, 6
GROUPS, COPIES, PER_CLASS = 60, 5, 16


def write_sheets(directory: Path, index: Index, report: dict[str, Any], corpus_dir: Path, classes: list[str]) -> None:
    """Write `duplicates.png` and `classes.png`.

    `duplicates.png` shows up to `GROUPS` groups of copies, those with conflicting labels first, then mirrored, near
    and exact ones; the first of each line is the copy that stays, unless all went. `classes.png` shows, for each
    class, `PER_CLASS` training images chosen by digest.
    """
    listed = records_by_path(corpus_dir, classes)

    lines: list[tuple[str, list[tuple[str, str]]]] = []
    for conflict in report["conflicts"]:
        paths = sorted(conflict["labels"], key=lambda path: (path != conflict["kept"], path))
        title = "conflict: " + (f"taken as {conflict['label']}" if conflict["label"] else "all dropped")
        lines.append((title, [(path, conflict["labels"][path]) for path in paths]))
    settled = {path for conflict in report["conflicts"] for path in conflict["labels"]}
    groups: dict[str, list[tuple[str, str]]] = {}
    for copy in report["duplicates"]:
        if copy["dropped"] not in settled:
            groups.setdefault(copy["kept"], []).append((copy["dropped"], copy["kind"]))
    order = {"mirrored": 0, "near": 1, "exact": 2}
    for kept, copies in sorted(groups.items(), key=lambda item: (min(order[kind] for _, kind in item[1]), item[0])):
        lines.append((f"{listed[kept].label or 'unlabelled'}: kept", [(kept, "kept"), *copies]))
    draw(directory / "duplicates.png", lines[:GROUPS], COPIES + 1, corpus_dir, listed, len(lines))

    train = index.rows[index.rows["split"] == "train"].sort_values("sample_id")
    shown = [
        (name, [(path, "") for path in train.loc[train["label"] == name, "path"].head(PER_CLASS)]) for name in classes
    ]
    draw(directory / "classes.png", shown, PER_CLASS, corpus_dir, listed, len(shown))


def draw(
    path: Path,
    lines: Sequence[tuple[str, list[tuple[str, str]]]],
    columns: int,
    corpus_dir: Path,
    listed: dict[str, Record],
    total: int,
) -> None:
    """Draw lines of images, each (path, caption), under titles; of `total` lines these are the first."""
    font = ImageFont.load_default(11)
    height = TILE + 2 * CAPTION + MARGIN
    sheet = Image.new("RGB", (columns * (TILE + MARGIN) + MARGIN, max(1, len(lines)) * height + CAPTION), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (title, images) in enumerate(lines):
        top = row * height
        more = f" (+{len(images) - columns} more)" if len(images) > columns else ""
        pen.text((MARGIN, top + 1), title + more, fill="black", font=font)
        for column, (name, caption) in enumerate(images[:columns]):
            left = MARGIN + column * (TILE + MARGIN)
            picture = Image.fromarray(np.ascontiguousarray(decode(corpus_dir, listed[name])))
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.BILINEAR), (left, top + CAPTION))
            pen.text((left, top + CAPTION + TILE), caption, fill="dimgray", font=font)
    count = f"{len(lines)} of {total} groups" if total > len(lines) else ""
    pen.text((MARGIN, sheet.height - CAPTION), count if lines else "none", fill="black", font=font)
    with atomic(path) as temporary:
        sheet.save(temporary, format="PNG")
