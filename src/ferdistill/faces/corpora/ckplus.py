"""CK+ (Lucey et al., CVPR 2010): `cohn-kanade-images/S005/001/*.png` and `Emotion/S005/001/*_emotion.txt`.

A sequence goes from neutral to the peak of an expression. 327 of the 593 have a label, which names the peak frame.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, is_below, last
from ...data.sources import NOT_AN_IMAGE, Dropped, Record, Row, file_names, is_clutter, join, unknown_label, wrong
from ...errors import CheckError
from . import numbered

PRECEDENCE = 20

CODES = numbered("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
SEQUENCE = r"((S\d{3})/(\d{3}))/\2_\3_\d{8}"  # a file is named after the folders it lies in


class Options(sources.Options):
    """`frames` of a sequence bear its label, the last up to the peak; `neutral_first` takes its first as neutral."""

    frames: Annotated[int, Field(ge=1)] = 1
    neutral_first: bool = False


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield the chosen frames of every labelled sequence; one without a label is dropped once, as "unlabelled".

    A sequence too short for `options` is an error. The frames between are not rows: nothing is said of them.
    """
    images, emotions = root / path / "cohn-kanade-images", root / path / "Emotion"
    sequences, strays = _by_sequence(root, join(path, "cohn-kanade-images"), ".png")
    labelled, stray_labels = _by_sequence(root, join(path, "Emotion"), "_emotion.txt")
    yield from (*strays, *stray_labels)
    for sequence, frames in sequences.items():
        if sequence not in labelled:
            yield Dropped(join(path, f"cohn-kanade-images/{sequence}"), "unlabelled")
            continue
        label_file = emotions / labelled[sequence][0]
        try:
            for frame, code in _chosen(images / sequence, frames, emotions / sequence, labelled[sequence], options):
                image = join(path, f"cohn-kanade-images/{frame}")
                record = Record(image, code, None, subject=f"ckplus:{sequence[:4]}", image=image)
                yield labels.row(record, str(label_file))
        except CheckError as error:
            yield error
    for sequence in sorted(labelled.keys() - sequences.keys()):
        yield CheckError(
            "a label without its images",
            where=str(emotions / labelled[sequence][0]),
            expected=f"frames in {images / sequence}",
            hint="restore them, or take the label out",
        )


def _by_sequence(root: Path, folder: str, suffix: str) -> tuple[dict[str, list[str]], list[Row]]:
    """The files of each sequence, as S005/001, and a row for each file that is of none."""
    found: dict[str, list[str]] = defaultdict(list)
    strays: list[Row] = []
    for name in file_names(root / folder):
        file = join(folder, name)
        if match := re.fullmatch(SEQUENCE + re.escape(suffix), name):
            found[match[1]].append(name)
        elif is_clutter(file):
            strays.append(Dropped(file, NOT_AN_IMAGE))
        else:
            expected = f"names such as S005/001/S005_001_00000011{suffix}"
            strays.append(wrong("a file that does not fit CK+", str(root / file), expected))
    return dict(found), strays


def _chosen(
    images: Path, frames: list[str], emotions: Path, labels: list[str], options: Options
) -> Iterator[tuple[str, str]]:
    """Yield the frames that bear a label, each with its code, of one sequence's folders and files."""
    if len(labels) > 1:
        several = f"{len(labels)} labels for one sequence"
        raise CheckError(several, where=str(emotions), expected="one", hint="take the others out")
    label_file = emotions / last(labels[0])
    code = _code(label_file)
    peak = f"{labels[0].removesuffix('_emotion.txt')}.png"
    if peak not in frames:
        raise CheckError(
            "a listed image is missing",
            where=str(images / last(peak)),
            expected=f"the peak frame that {label_file} names",
            hint="restore the file, or take its label out",
        )
    taken = frames[: frames.index(peak) + 1]
    if len(taken) < options.frames + options.neutral_first:
        raise CheckError(
            f"a sequence of {len(taken)} frames up to its peak",
            where=str(images),
            expected=f"at least {options.frames + options.neutral_first}, by the source's options",
            hint="lower `frames`, or restore the images",
        )
    if options.neutral_first:
        yield taken[0], "0"
    for frame in taken[-options.frames :]:
        yield frame, code


def _code(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (UnicodeDecodeError, OSError) as error:
        expected = "a number in a text file"
        raise CheckError(f"a label cannot be read: {error}", where=str(file), expected=expected) from None
    try:
        value = float(text)
        code = str(int(value)) if value == int(value) else text
    except (ValueError, OverflowError):
        code = text
    if code not in CODES:
        raise unknown_label(code, CODES, str(file))
    return code


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
