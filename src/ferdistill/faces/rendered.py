"""The embedded corpus: rendered faces with known annotators, written as three raw sources in public layouts."""

import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ..cores import on_every_core
from ..errors import UsageError
from ..files import write_json, write_text
from ..progress import track
from .head import (
    ACTION_UNITS,
    CLASSES,
    Identity,
    draw_expression,
    draw_identity,
    draw_view,
    grey,
    intensity,
    perceived,
    render,
)

# (source, official part, share of the images)
PARTS = (
    ("fer2013", "Training", 0.55 * 0.75),
    ("fer2013", "PublicTest", 0.55 * 0.08),
    ("fer2013", "PrivateTest", 0.55 * 0.17),
    ("rafdb", "train", 0.25 * 0.75),
    ("rafdb", "test", 0.25 * 0.25),
    ("folders", "train", 0.20 * 0.75),
    ("folders", "test", 0.20 * 0.25),
)
UNLABELLED = ("unlabelled", "")  # a source without labels and parts
PLANTED = {"exact": 0.015, "reencoded": 0.01, "mirrored": 0.01, "conflicts": 0.005}  # shares of the images

FER_CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # from 0
RAF_CODES = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")  # from 1

# First words of the seed sequences, so that no two kinds of draw share a stream.
_LAYOUT, _SUBJECT, _IMAGE = range(3)
CHUNK = 50  # images that a process renders at a time
EACH = 4  # chunks that repay starting a process
Job = tuple[tuple[int, int], tuple[str, str], int]  # an image's own place, its source and official part, its subject

_SOURCES = """\
sources:            # in order of precedence
  - {name: fer2013, adapter: fer2013, path: fer2013/fer2013.csv, licence: Apache-2.0}
  - {name: rafdb, adapter: rafdb, path: rafdb, licence: Apache-2.0}
  - {name: folders, adapter: folders, path: folders, licence: Apache-2.0}
subjects: subjects.csv
"""

_LICENSE = """\
Every face here was rendered by the program that wrote this corpus. None shows, or was made from a picture
of, a real person. The images and their labels may be used under the program's own licence, Apache-2.0.
"""

_TRUTH = """\
What is known about the corpus because it was drawn. Only evaluation may read this directory: a stage that
trains, cleans or splits and looks here has seen the answers.

samples.csv, a line an image
  path        relative to the corpus; row i of the CSV, counted from 0, is fer2013/fer2013.csv#i
  source      fer2013, rafdb or folders
  subject     whose face it is
  intended    the class whose action units were drawn
  label       the label that the source carries: the plurality of the votes, a tie broken by one vote more;
              on the second image of a conflict, another class
  au01 ...    intensity of each FACS action unit, 0 to 1
  q_<class>   probability with which an annotator names the class on seeing these units
  votes_<class>  the annotators' votes
  intensity   how far the units go along the nearest class's, 0 to 1
  occluded    1 if part of the face is covered
  tone        of the skin, 1 to 10 on Monk's scale
  age         years
  sex         of the mesh, female or male

planted.json, what a clean-up should find; in each pair the first path is the original
  exact       two files with the same pixels and label
  exact_across_parts  those of them that lie on both sides of the official split
  reencoded   the second was resized and saved as JPEG
  mirrored    the second is the first, flipped left to right
  conflicts   two files with the same pixels and different labels
  subjects_in_two_sources  subject, and two official parts, one training and one test, that both show them
"""


@dataclass(frozen=True)
class Sample:
    """One image with all that is known of it."""

    source: str
    part: str
    subject: int
    intended: str
    label: str
    aus: NDArray[np.float64]  # (A,)
    q: NDArray[np.float64]  # (7,)
    votes: NDArray[np.int64]  # (7,)
    occluded: bool
    tone: int  # of the skin, 1 to 10 on Monk's scale
    age: int  # years
    sex: str  # of the mesh
    pixels: NDArray[np.uint8]  # grey, (48, 48); RGB, (100, 100, 3), in rafdb
    quality: int = 92  # of the JPEG, where the source has JPEG


def write_corpus(
    root: Path,
    *,
    seed: int,
    subjects: int,
    images: int,
    annotators: int,
    sharpness: float,
    votes: bool = False,
    transfer: int = 0,
    plant: bool = True,
) -> dict[str, int]:
    """Write the embedded corpus: three sources, `corpus.yaml`, `subjects.csv`, and the truth about them.

    The same arguments give the same bytes. The corpus appears at `root` whole or not at all.

    Parameters
    ----------
    root : Path
        Directory to make; it must be absent or empty.
    seed : int
        Of every draw, at least 0.
    subjects : int
        Number of people, at least 20.
    images : int
        Rows and files over all three sources, planted duplicates included: at least 100, and four a subject.
    annotators : int
        Votes an image, at least 1.
    sharpness : float
        How much annotators agree, above 0; see `head.perceived`.
    votes : bool
        Whether their votes lie beside the images, in `votes.csv`, which `corpus.yaml` then names.
    transfer : int
        Images without a label beside those, of people whom no other image shows: a fourth source, `unlabelled`.
    plant : bool
        Whether copies and conflicts are planted among the images, and people in two sources.

    Returns
    -------
    dict of str to int
        Images in all and in each source, subjects, and pairs of each planted kind.

    Raises
    ------
    UsageError
        If an argument is out of range, or `root` holds something.
    """
    for argument, fits, expected in (
        (f"seed = {seed}", seed >= 0, "at least 0"),
        (f"subjects = {subjects}", subjects >= 20, "at least 20, so every part has one"),
        (f"images = {images}", images >= max(100, 4 * subjects), "at least 100, and 4 a subject"),
        (f"annotators = {annotators}", annotators >= 1, "at least 1"),
        (f"transfer = {transfer}", transfer >= 0, "at least 0"),
        (f"sharpness = {sharpness}", math.isfinite(sharpness) and sharpness > 0, "a number above 0"),
    ):
        if not fits:
            raise UsageError("the corpus cannot be drawn", where=argument, expected=expected)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError("the corpus would overwrite what is there", where=str(root), hint="remove it first")
    samples, planted, shared = _draw(seed, subjects, images, annotators, sharpness, plant)
    # As many images a person as the others have.
    strangers = range(subjects, subjects + -(-transfer * subjects // images))
    jobs = [((len(PARTS), place), UNLABELLED, strangers[place % len(strangers)]) for place in range(transfer)]
    rendered = _render_all(seed, jobs, annotators, sharpness)
    samples += [replace(one, label="") for one in track(rendered, "rendering unlabelled faces", total=transfer)]

    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        paths = _write_sources(temporary, samples)
        _write_notes(temporary, samples, paths, planted, shared)
        _write_description(temporary, votes, transfer > 0)
        if votes:
            _write_votes(temporary, samples, paths)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)  # mkdtemp makes directories that only their owner may enter
        if root.exists():
            root.rmdir()
        temporary.rename(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "images": len(samples),
        "subjects": subjects + len(strangers),
        **Counter(sample.source for sample in samples),
        **{kind: len(pairs) for kind, pairs in planted.items()},
        "subjects_in_two_sources": len(shared),
    }


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _apportion(total: int, shares: list[float]) -> list[int]:
    """Split `total` into whole parts near `shares` by largest remainder, each at least 1."""
    exact = np.array(shares) / sum(shares) * total
    counts = np.maximum(1, np.floor(exact)).astype(int)
    for part in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[part] += 1
    return counts.tolist()


def vote(q: NDArray[np.float64], annotators: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], str]:
    """Draw `annotators` votes from `q`, shape (7,); return them and the plurality.

    One more vote among the tied classes, also from `q`, settles a tie.
    """
    votes = rng.multinomial(annotators, q)
    tied = np.flatnonzero(votes == votes.max())
    return votes, CLASSES[rng.choice(tied, p=q[tied] / q[tied].sum())]


def _draw(
    seed: int, subjects: int, images: int, annotators: int, sharpness: float, plant: bool
) -> tuple[list[Sample], dict[str, list[tuple[int, int]]], list[int]]:
    """Draw all samples, the planted pairs (as positions among them), and the subjects in two sources."""
    numbers = _generator(seed, _LAYOUT).permutation(subjects).tolist()
    counts = _apportion(subjects, [share for *_, share in PARTS])
    ends = np.cumsum(counts)
    pools = {part[:2]: numbers[end - n : end] for part, n, end in zip(PARTS, counts, ends, strict=True)}
    shared = pools["rafdb", "train"][: max(2, round(0.01 * subjects))] if plant else []
    pools["folders", "test"] = shared + pools["folders", "test"]

    copies = {kind: max(1, round(share * images)) if plant else 0 for kind, share in PLANTED.items()}
    conflicts_in_folders = (copies["conflicts"] + 1) // 2
    planted_in = {
        "fer2013": copies["conflicts"] - conflicts_in_folders,
        "rafdb": copies["reencoded"],
        "folders": copies["exact"] + copies["mirrored"] + conflicts_in_folders,
    }
    of_source = {name: sum(share for source, _, share in PARTS if source == name) for name in planted_in}
    room = [share * (1 - planted_in[source] / (of_source[source] * images)) for source, _, share in PARTS]
    counts = _apportion(images - sum(copies.values()), room)

    jobs: list[Job] = []
    for number, count in enumerate(counts):
        part = PARTS[number][:2]
        jobs += [((number, place), part, pools[part][place % len(pools[part])]) for place in range(count)]
    samples = list(track(_render_all(seed, jobs, annotators, sharpness), "rendering faces", total=len(jobs)))
    if not plant:
        return samples, {}, []
    return samples, _plant(samples, copies, conflicts_in_folders, _generator(seed, _LAYOUT, images)), shared


def _render_all(seed: int, jobs: list[Job], annotators: int, sharpness: float) -> Iterator[Sample]:
    """The sample of each job, in their order. Every core renders."""
    chunks = [(seed, jobs[start : start + CHUNK], annotators, sharpness) for start in range(0, len(jobs), CHUNK)]
    return (sample for chunk in on_every_core(_render_chunk, chunks, EACH) for sample in chunk)


def _render_chunk(chunk: tuple[int, list[Job], int, float]) -> list[Sample]:
    seed, jobs, annotators, sharpness = chunk
    samples = []
    for place, (source, part), subject in jobs:
        identity = _identity(seed, subject)
        rng = _generator(seed, _IMAGE, *place)
        intended, aus = draw_expression(rng)
        q = perceived(aus[None], sharpness)[0]
        votes, label = vote(q, annotators, rng)
        view = draw_view(rng)
        pixels = render(identity, aus, view, 100 if source == "rafdb" else 48)
        samples.append(
            Sample(
                source=source,
                part=part,
                subject=subject,
                intended=intended,
                label=label,
                aus=aus,
                q=q,
                votes=votes,
                occluded=bool(view.occluder),
                tone=round(identity.tone),
                age=round(identity.age),
                sex="male" if identity.sex > 0.5 else "female",
                pixels=pixels if source == "rafdb" else grey(pixels),
            )
        )
    return samples


@lru_cache(maxsize=256)
def _identity(seed: int, subject: int) -> Identity:
    return draw_identity(_generator(seed, _SUBJECT, subject))


def _plant(
    samples: list[Sample], copies: dict[str, int], conflicts_in_folders: int, rng: np.random.Generator
) -> dict[str, list[tuple[int, int]]]:
    """Append copies of FER images to `samples`; return the pairs (original, copy) by kind.

    A copy lies in the same official part as its original, so that its subject stays on one side of the split.
    Only the exact copies under `exact_across_parts` do not, and they show as few subjects as can be.
    """
    originals = [position for position, sample in enumerate(samples) if sample.source == "fer2013"]
    training = [position for position in originals if samples[position].part == "Training"]
    training.sort(key=lambda position: samples[position].subject)
    straddling = training[: max(1, round(0.2 * copies["exact"]))]
    rest = rng.permutation(np.setdiff1d(originals, straddling)).tolist()

    kinds = ("exact", "exact_across_parts", "reencoded", "mirrored", "conflicts")
    planted: dict[str, list[tuple[int, int]]] = {kind: [] for kind in kinds}

    def plant(kind: str, original: int, **changed: Any) -> None:
        planted[kind].append((original, len(samples)))
        samples.append(replace(samples[original], **changed))

    def same_part(original: int) -> str:
        return "train" if samples[original].part == "Training" else "test"

    for position in straddling:
        plant("exact", position, source="folders", part="test")
    planted["exact_across_parts"] = list(planted["exact"])
    for _ in range(copies["exact"] - len(straddling)):
        position = rest.pop()
        plant("exact", position, source="folders", part=same_part(position))
    for _ in range(copies["reencoded"]):
        position = rest.pop()
        small = Image.fromarray(samples[position].pixels).convert("RGB")
        larger = np.asarray(small.resize((100, 100), Image.Resampling.BICUBIC))
        plant("reencoded", position, source="rafdb", part=same_part(position), pixels=larger, quality=75)
    for _ in range(copies["mirrored"]):
        position = rest.pop()
        flipped = samples[position].pixels[:, ::-1].copy()
        plant("mirrored", position, source="folders", part=same_part(position), pixels=flipped)
    for number in range(copies["conflicts"]):
        position = rest.pop()
        others = np.where(np.array(CLASSES) == samples[position].label, -1.0, samples[position].q)
        moved = {"source": "folders", "part": same_part(position)} if number < conflicts_in_folders else {}
        plant("conflicts", position, label=CLASSES[int(others.argmax())], **moved)
    return planted


def _file_order(samples: list[Sample]) -> list[int]:
    """Positions of the samples, part by part; within a part as drawn, copies last."""
    order = {(source, part): rank for rank, (source, part, *_) in enumerate((*PARTS, UNLABELLED))}
    return sorted(range(len(samples)), key=lambda i: order[samples[i].source, samples[i].part])


def _write_sources(root: Path, samples: list[Sample]) -> list[str]:
    """Write the images and labels of the three sources; return the path of each sample."""
    paths = [""] * len(samples)
    rows: list[list[Any]] = []
    raf_lines: list[str] = []
    numbered = Counter[str]()
    for part in ("train", "test"):
        for emotion in CLASSES:
            (root / "folders" / part / emotion).mkdir(parents=True)
    (root / "rafdb" / "Image" / "aligned").mkdir(parents=True)
    for position in _file_order(samples):
        sample = samples[position]
        if sample.source == "fer2013":
            paths[position] = f"fer2013/fer2013.csv#{len(rows)}"
            grey = " ".join(map(str, sample.pixels.ravel().tolist()))
            rows.append([FER_CODES.index(sample.label), grey, sample.part])
        elif sample.source == "rafdb":
            numbered[sample.part] += 1
            name = f"{sample.part}_{numbered[sample.part]:05d}"
            raf_lines.append(f"{name}.jpg {RAF_CODES.index(sample.label) + 1}\n")
            paths[position] = f"rafdb/Image/aligned/{name}_aligned.jpg"
            Image.fromarray(sample.pixels).save(root / paths[position], quality=sample.quality)
        else:
            folder = f"folders/{sample.part}/{sample.label}" if sample.label else "unlabelled"
            (root / folder).mkdir(exist_ok=True)
            subject = _subject_name(sample.subject)
            name = f"{subject}_{numbered[subject]:04d}.png"
            numbered[subject] += 1
            paths[position] = f"{folder}/{name}"
            Image.fromarray(sample.pixels).save(root / paths[position])
    _write_csv(root / "fer2013" / "fer2013.csv", ["emotion", "pixels", "Usage"], rows)
    write_text(root / "rafdb" / "EmoLabel" / "list_patition_label.txt", "".join(raf_lines))
    return paths


def _write_notes(
    root: Path, samples: list[Sample], paths: list[str], planted: dict[str, list[tuple[int, int]]], shared: list[int]
) -> None:
    """Write the subjects, the licence and the truth."""
    positions = _file_order(samples)
    write_text(root / "LICENSE.txt", _LICENSE)
    write_text(root / "truth" / "README.txt", _TRUTH)
    subject_rows = [[paths[position], _subject_name(samples[position].subject)] for position in positions]
    _write_csv(root / "subjects.csv", ["path", "subject"], subject_rows)

    header = ["path", "source", "subject", "intended", "label", *(f"au{unit:02d}" for unit in ACTION_UNITS)]
    header += [f"{what}_{emotion}" for what in ("q", "votes") for emotion in CLASSES]
    rows = []
    for position in positions:
        sample = samples[position]
        known = [paths[position], sample.source, _subject_name(sample.subject), sample.intended, sample.label]
        seen = [*sample.aus.tolist(), *sample.q.tolist(), *sample.votes.tolist()]
        strength = float(intensity(sample.aus[None])[0])
        rows.append([*known, *seen, strength, int(sample.occluded), sample.tone, sample.age, sample.sex])
    _write_csv(root / "truth" / "samples.csv", [*header, "intensity", "occluded", "tone", "age", "sex"], rows)

    pairs = {kind: [[paths[original], paths[copy]] for original, copy in found] for kind, found in planted.items()}
    pairs["subjects_in_two_sources"] = [[_subject_name(s), "rafdb/train", "folders/test"] for s in shared]
    write_json(root / "truth" / "planted.json", pairs)


def _write_description(root: Path, votes: bool, unlabelled: bool) -> None:
    """Write the list of sources, and what belongs to it."""
    text = _SOURCES
    if unlabelled:
        last = "  - {name: unlabelled, adapter: unlabelled, path: unlabelled, licence: Apache-2.0}\n"
        text = text.replace("subjects:", f"{last}subjects:")
    write_text(root / "corpus.yaml", text + ("votes: votes.csv\n" if votes else ""))


def _write_votes(root: Path, samples: list[Sample], paths: list[str]) -> None:
    """Write the annotators' votes as a corpus would publish them; nobody voted on what has no label."""
    labelled = [position for position in _file_order(samples) if samples[position].label]
    rows = [[paths[position], *samples[position].votes.tolist()] for position in labelled]
    _write_csv(root / "votes.csv", ["path", *CLASSES], rows)


def _subject_name(number: int) -> str:
    return f"s{number:04d}"


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    write_text(path, pd.DataFrame(rows, columns=header).to_csv(index=False, lineterminator="\n"))
