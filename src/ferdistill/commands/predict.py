"""`ferdistill predict`."""

import csv
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from .. import workspace
from ..errors import CheckError, UsageError
from ..plain import cell, json_text
from ..progress import track
from . import options


def predict(
    sources: Annotated[list[str], typer.Argument(metavar="IMAGE|DIR|GLOB...", help="Pictures.")],
    bundle: options.Bundle = workspace.BUNDLE,
    whole: options.Whole = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a find, instead of JSON lines.")] = False,
    detector: options.Detector = None,
    smallest: options.Smallest = 0.1,
    margin: options.Margin = None,
    confidence: options.Confidence = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
) -> None:
    """Classify pictures, or what the bundle's detector finds in them.

    Prints a JSON line a picture: the label, or null where the largest probability is below the confidence, the
    calibrated probabilities and, where the bundle has thresholds for them, the set of classes that are not ruled out
    (an empty one rules out all) and those that raise an alert; if the bundle has a detector, a list of these, each with
    its box. A picture that cannot be read has `error` in its line, the others go on, and the exit code is 1. A name
    that is nowhere stops it before the first picture, with exit code 2. In CSV, names of a set are joined by |, and
    text that a spreadsheet would take for a formula begins with an apostrophe.

    Examples:
        ferdistill predict photo.jpg

        ferdistill predict photos/ --csv > photos.csv

        ferdistill predict 'crops/*.png' --whole --confidence 0.7
    """
    from ..runtime import pictures
    from ..runtime.classifier import Classifier

    files = pictures.find(sources)
    classifier = Classifier(bundle, threads, device)
    threshold = classifier.confidence if confidence is None else confidence
    task = classifier.info["task"]
    room = room_of(task, detector)
    find = (
        room.finder(classifier, detector, whole, smallest, margin, threads)
        if room
        else lambda pixels, threshold: [classifier.answer(pictures.classify(classifier, [pixels])[0], threshold)]
    )
    table = csv.writer(sys.stdout, lineterminator="\n")

    def write(*row: Any) -> None:
        table.writerow(map(cell, row))

    acting = [column for column, of in (("set", "sets"), ("alerts", "alerts")) if classifier.info[of]]
    place = [task["thing"], "left", "top", "width", "height", "tilt"] if room else []
    if as_csv:
        names = [f"prob_{name}" for name in classifier.classes]
        write("path", *place, "label", "confidence", *acting, *names, "error")
    wrong = 0
    for file in track(files, "predicting"):
        found: list[dict[str, Any]] = []
        problem = ""
        try:
            pixels = pictures.read(file)
        except CheckError as error:
            wrong += 1
            problem = f"{error.what}; expected {error.expected}"
        else:
            found = find(pixels, threshold)
        if as_csv:
            for number, one in enumerate(found):
                at = [number, *one["box"], one["tilt"]] if room else []
                sets = ["|".join(one[name]) for name in acting]
                answer = [one["label"], one["confidence"], *sets, *one["probabilities"].values()]
                write(file.as_posix(), *at, *answer, problem)
            if not found:
                write(file.as_posix(), *[""] * (len(place) + 2 + len(acting) + len(classifier.classes)), problem)
        else:
            finds = {task["detector"]: found} if room else found[0] if found else {}
            report = {"path": file.as_posix()} | finds | ({"error": problem} if problem else {})
            print(json_text(report, indent=None), flush=True)
    if wrong:
        raise CheckError(
            f"{wrong} of {len(files)} pictures could not be read",
            where="the lines with an error",
            hint="replace them, or leave them out",
        )


def room_of(task: dict[str, Any], asked: str | None) -> Any:
    """The commands of the room whose detector a bundle names, or None where it names none.

    Raises UsageError if a detector was `asked` for and the bundle has none, or one that is not known here.
    """
    name = task["detector"]
    if name is None:
        if asked is not None:
            raise UsageError(
                f"the bundle classifies whole {task['things']}: no detector belongs in front of it",
                where="--detector",
                hint="leave it out, or name one in params.yaml (task.detector) and export again",
            )
        return None
    try:
        return import_module(f"ferdistill.{name}.commands")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the bundle needs a detector that is not here: {error}",
            where="bundle.json, task.detector",
            hint="use the release of ferdistill that wrote it",
        ) from None
