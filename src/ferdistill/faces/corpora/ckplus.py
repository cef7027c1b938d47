"""CK+ (Lucey et al., CVPR 2010): `cohn-kanade-images/S005/001/*.png` and `Emotion/S005/001/*_emotion.txt`.

A sequence goes from neutral to the peak of an expression. 327 of the 593 have a label, which names the peak frame.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, is_below
from ...data.sources import NOT_AN_IMAGE, Dropped, Record, Row, file_names, is_clutter, join, unknown_label, wrong
from ...errors import CheckError
from . import numbered

PRECEDENCE = 20

CODES = numbered("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
FRAME = re.compile(r"(S\d{3}/\d{3})/S\d{3}_\d{3}_\d{8}\.png")
LABEL = re.compile(r"(S\d{3}/\d{3})/(S\d{3}_\d{3}_\d{8})_emotion\.txt")


class Options(sources.Options):
    """`frames` of a sequence bear its label, the last up to the peak; `neutral_first` takes its first as neutral."""

    frames: Annotated[int, Field(ge=1)] = 1
    neutral_first: bool = False


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield the chosen frames of every labelled sequence; one without a label is dropped once, as "unlabelled".

    A sequence too short for `options` is an error. The frames between are not rows: nothing is said of them.
    """
    images, emotions = root / path / "cohn-kanade-images", root / path / "Emotion"
    sequences: dict[str, list[str]] = {}
    for name in file_names(images):
        match = FRAME.fullmatch(name)
        if match and _agrees(name):
            sequences.setdefault(match[1], []).append(name)
        else:
            yield _stray(join(path, f"cohn-kanade-images/{name}"), root, "S005/001/S005_001_00000011.png")
    labelled: dict[str, list[str]] = {}
    for name in file_names(emotions):
        match = LABEL.fullmatch(name)
        if match and _agrees(name):
            labelled.setdefault(match[1], []).append(name)
        else:
            yield _stray(join(path, f"Emotion/{name}"), root, "S005/001/S005_001_00000011_emotion.txt")

    for sequence, frames in sequences.items():
        if sequence not in labelled:
            yield Dropped(join(path, f"cohn-kanade-images/{sequence}"), "unlabelled")
            continue
        label_file = emotions / labelled[sequence][0]
        peak = f"{labelled[sequence][0].removesuffix('_emotion.txt')}.png"
        code = _code(label_file)
        taken = frames[: frames.index(peak) + 1] if peak in frames else []
        if len(labelled[sequence]) > 1:
            yield CheckError(
                f"{len(labelled[sequence])} labels for one sequence",
                where=str(emotions / sequence),
                expected="one",
                hint="take the others out",
            )
        elif isinstance(code, CheckError):
            yield code
        elif not taken:
            yield CheckError(
                "a listed image is missing",
                where=str(images / peak),
                expected=f"the peak frame that {label_file} names",
                hint="restore the file, or take its label out",
            )
        elif len(taken) < options.frames + options.neutral_first:
            yield CheckError(
                f"a sequence of {len(taken)} frames up to its peak",
                where=str(images / sequence),
                expected=f"at least {options.frames + options.neutral_first}, by the source's options",
                hint="lower `frames`, or restore the images",
            )
        else:
            chosen = [(taken[0], "0")] if options.neutral_first else []
            chosen += [(frame, code) for frame in taken[-options.frames :]]
            for frame, shown in chosen:
                image = join(path, f"cohn-kanade-images/{frame}")
                record = Record(image, shown, None, subject=f"ckplus:{sequence[:4]}", image=image)
                yield labels.row(record, str(label_file))
    for sequence in sorted(labelled.keys() - sequences.keys()):
        yield CheckError(
            "a label without its images",
            where=str(emotions / labelled[sequence][0]),
            expected=f"frames in {images / sequence}",
            hint="restore them, or take the label out",
        )


def _agrees(name: str) -> bool:
    """Whether a file is named after the folders it lies in."""
    subject, sequence, file = name.split("/")
    return file.startswith(f"{subject}_{sequence}_")


def _stray(name: str, root: Path, expected: str) -> Dropped | CheckError:
    if is_clutter(name):
        return Dropped(name, NOT_AN_IMAGE)
    return wrong("a file that does not fit CK+", str(root / name), f"names such as {expected}")


def _code(file: Path) -> str | CheckError:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (UnicodeDecodeError, OSError) as error:
        return CheckError(f"a label cannot be read: {error}", where=str(file), expected="a number in a text file")
    try:
        value = float(text)
        code = str(int(value)) if value == int(value) else text
    except (ValueError, OverflowError):
        code = text
    return code if code in CODES else unknown_label(code, CODES, str(file))


def recognise(tree: Tree) -> Found:
    """The folder of sequences, and the labels beside it."""
    for base in tree.ending("cohn-kanade-images"):
        labels = [
            name for name in tree.files if name.endswith("_emotion.txt") and is_below(name, join(base, "Emotion"))
        ]
        if labels:
            yield Layout(base, f"cohn-kanade-images, and {len(labels)} labels in Emotion")
        else:
            yield LeftOut(base, "CK+ without its folder Emotion, which holds the labels")
