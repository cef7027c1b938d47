"""One verdict on each file of soft labels: the gate where there are keys, the canary for the values, in one call."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import extras, output
from ..errors import FerdistillError
from . import alignment, canary
from .holding import Held
from .labelled import Labelled, of_index
from .parts import SoftLabels

if TYPE_CHECKING:
    from ..data.index import Index

COMMAND = re.compile(r"`(ferdistill align repair [^`]*)`")
IN_STEP, OUT_OF_STEP, CANNOT_TELL = "in step", "out of step", "cannot tell"
INCOMPLETE, NOT_JUDGED, UNCOVERED = "in step, incomplete", "not judged", "uncovered"
CAVEAT = (
    "no paths: rows exchanged here and there, even many, look like a teacher's errors; a path for each row shows them"
)
Sets = list[tuple[SoftLabels, list[Held]]]


def check(
    paths: Sequence[Path],
    against: "Index | Labelled",
    classes: list[str],
    checkpoints: dict[str, str] | None = None,
    with_canary: bool = True,
    refused: dict[Path, FerdistillError] | None = None,
) -> dict[str, Any]:
    """Hold soft labels against a table of labels: their keys by `alignment.gate`, their values by `canary.compare`.

    Keys in order do not say that the values are theirs, so the canary sees those too, where the gate finds nothing
    wrong, or only images without a row; rows without keys it sees alone.

    Parameters
    ----------
    refused
        Takes the error of each path that cannot be judged: its verdict says so. If None, the first ends the check.

    Returns
    -------
    dict
        What the gate reports, and
        - `canary`: `results` as `canary.compare` gives them, and `ok`: whether every verdict is "aligned"; not there
          `with_canary` off;
        - more `problems`: of kind `values` for each verdict "misaligned", `row` being the likeliest first row out of
          step; of kind `keys` where nothing vouches for the order of rows without paths, the verdict being
          "inconclusive" (of rows with paths it is no problem); and of kind `not judged` for each path in `refused`;
          of soft labels that are in order but lack images, one of kind `uncovered` a part, in place of the gate's;
        - `classes`, and `classes_from`: how they are known;
        - `verdicts`: {dir, verdict, why, caveat, mend, keeps} for each path: "in step", "in step, incomplete" (only
          that images have no row), "out of step", "cannot tell" or "not judged", in words why, what it cannot show or
          None, the command that mends it or None, and, if it leaves rows out, [of how many images it keeps a row, of
          how many].
    """

    def refuse(path: Path, error: Exception) -> None:
        if refused is None:
            raise error
        refused[path] = _known(error)

    report, sets = alignment.gate(paths, against, classes, checkpoints, keyless=with_canary, refuse=refuse)

    @cache
    def images() -> Labelled:
        return against if isinstance(against, Labelled) else of_index(against)

    sets = _incomplete(report, sets, images)
    told = against.classes_from if isinstance(against, Labelled) else "the index"
    named = {"classes": classes, "classes_from": told}
    if with_canary:
        faulty = {problem["dir"] for problem in report["problems"] if problem["kind"] != UNCOVERED}
        in_step = [one for one in sets if one[0].directory.as_posix() not in faulty]
        report = _with_canary(report, canary.compare(in_step, images()) if in_step else [], in_step)
    faults = [_not_judged(path, refused[path]) for path in paths if path in refused] if refused else []
    report = report | {"ok": report["ok"] and not faults, "problems": report["problems"] + faults}
    by_path = {soft.directory: (soft, held) for soft, held in sets}
    found = []
    for path in paths:
        verdict = _verdict(report, path.as_posix())
        if verdict["mend"] and DROP in verdict["mend"]:
            verdict["keeps"] = _kept(report, path.as_posix(), *by_path[path], images())
        found.append(verdict)
    return report | named | {"verdicts": found}


def _known(error: Exception) -> FerdistillError:
    """An error of one path as one that the user can act on; raises it if it is none."""
    if isinstance(error, FerdistillError):
        return error
    known = extras.missing(error, "align") if isinstance(error, ModuleNotFoundError) else output.refused(error)
    if known is None:
        raise error
    return known


def _not_judged(path: Path, error: FerdistillError) -> dict[str, Any]:
    place = f"{error.where}: " if error.where not in ("", str(path)) else ""
    return alignment.problem(path, "", NOT_JUDGED, None, error.expected, f"{place}{error.what}", error.hint)


def _incomplete(report: dict[str, Any], sets: Sets, images: Callable[[], Labelled]) -> Sets:
    """In a report of `alignment.gate`, say of soft labels that only lack images just that; the sets without these."""
    found = []
    for soft, held in sets:
        path = soft.directory.as_posix()
        kinds = {problem["kind"] for problem in report["problems"] if problem["dir"] == path}
        lack = [alignment.lacking(one) for one in held]
        if soft.manifest or not kinds or kinds - {"length", "missing"} or None in lack:
            found.append((soft, held))
            continue
        report["problems"] = [problem for problem in report["problems"] if problem["dir"] != path]
        present = []
        for one, number in zip(held, lack, strict=True):
            assert one.at is not None and number is not None
            if number:
                row = int(np.setdiff1d(np.arange(len(one.positions)), one.at)[0])
                text = f"{number:,} of {len(one.positions):,} images have no soft label"
                expected = f"a row for each image, as for {images().paths[one.positions[row]]}"
                fault = alignment.problem(soft.directory, one.split, UNCOVERED, row, expected, text, COVER)
                report["problems"].append(fault)
            present.append(replace(one, positions=one.positions[one.at], at=np.arange(len(one.at))))
        found.append((soft, present))
    return found


def _with_canary(report: dict[str, Any], results: list[dict[str, Any]], sets: Sets) -> dict[str, Any]:
    of = {soft.directory.as_posix(): soft for soft, _ in sets}
    expected = "soft labels whose arg-max agrees with the labels of their images"
    problems = []
    seen = {(found["dir"], found["split"]) for found in results}
    for soft, held in sets:
        for one in held:
            if one.part.paths is None and not soft.keyed and (soft.directory.as_posix(), one.split) not in seen:
                place, text = (soft.directory, one.split), "no paths, and no labels to hold the values against"
                problems.append(
                    alignment.problem(*place, "keys", None, "a path for each row", text, canary.bring_paths(soft))
                )
    for found in results:
        place = Path(found["dir"]), found["split"]
        agree = f"({found['agreement']:.1%} agree, {found['chance']:.1%} by chance)"
        if found["verdict"] == "misaligned":
            text = f"{found['why']} {agree}" + (
                f"; the image of that row is {found['slip_path']}" if found["slip_path"] else ""
            )
            problems.append(alignment.problem(*place, "values", found["slip_row"], expected, text, found["hint"]))
        elif found["verdict"] == "inconclusive" and not of[found["dir"]].keyed:
            hint = f"{canary.bring_paths(of[found['dir']])}; or check the soft labels of other teachers with these"
            text = f"no paths, and values that do not say enough: {found['why']} {agree}"
            problems.append(alignment.problem(*place, "keys", None, "a path for each row", text, hint))
    splits = {
        split: facts | {"ok": facts["ok"] and not any(alignment.concerns(problem, split) for problem in problems)}
        for split, facts in report["splits"].items()
    }
    return report | {
        "ok": report["ok"] and not problems,
        "splits": splits,
        "problems": report["problems"] + problems,
        "canary": {"results": results, "ok": all(found["verdict"] == "aligned" for found in results)},
    }


def _verdict(report: dict[str, Any], path: str) -> dict[str, Any]:
    """In words what is known of one path."""
    problems = [problem for problem in report["problems"] if problem["dir"] == path]
    results = [found for found in report.get("canary", {}).get("results", []) if found["dir"] == path]
    verdict: dict[str, Any] = {"dir": path, "verdict": IN_STEP, "why": "", "caveat": None, "mend": None, "keeps": None}
    lacking = [problem["found"] for problem in problems if problem["kind"] == UNCOVERED]
    if len(problems) > len(lacking):
        first, kinds = problems[0], {problem["kind"] for problem in problems}
        seen = [found["why"] for found in results if found["split"] == first["split"] and found["verdict"] != "aligned"]
        commands = [command for problem in problems for command in COMMAND.findall(str(problem["hint"]))]
        mend = commands[0] if commands and kinds <= REPAIRABLE and not lacking else None
        why = seen[0] if seen and kinds <= {"values", "keys"} else WORDS.get(first["kind"], first["found"])
        said = {"keys": CANNOT_TELL, NOT_JUDGED: NOT_JUDGED}.get(first["kind"]) if len(kinds) == 1 else None
        return verdict | {"verdict": said or OUT_OF_STEP, "why": why, "mend": mend}
    soft = next(soft for soft in report["soft_labels"] if soft["dir"] == path)
    keyed = all(held["paths"] for held in soft.get("held", []))
    keys = "every path in its row" if keyed and not lacking else ""
    sure = all(found["verdict"] == "aligned" for found in results)
    agree = ", ".join(f"{found['agreement']:.1%} of {found['split'] or 'the rows'}" for found in results)
    slip = "no slip found" if sure else "too little evidence to rule out a slip"
    values = f"the arg-max is the label in {agree}; {slip}"
    why = "; ".join([*lacking, *filter(None, (keys, values if results else ""))])
    return verdict | {"verdict": INCOMPLETE if lacking else IN_STEP, "why": why, "caveat": None if keyed else CAVEAT}


def _kept(report: dict[str, Any], path: str, soft: SoftLabels, held: list[Held], images: Labelled) -> tuple[int, int]:
    """Of how many images a repair keeps a row, and of how many there must be one."""
    if soft.keyed:
        return alignment.coverage(soft, images, held)
    results = [found for found in report["canary"]["results"] if found["dir"] == path]
    return sum(found["certain"] for found in results), sum(found["index_rows"] for found in results)


DROP = "--drop-unmatched"
COVER = (
    "train with `covers: partial` of this teacher (docs/teachers.md), or cut the labels to the paths in the file; "
    "or export the others too"
)
REPAIRABLE = {"classes", "duplicate", "extra", "length", "missing", "order", "split", "values"}
WORDS = {
    "classes": "the columns are not these classes in this order",
    "temperature": "the values were softened",
    "index digest": "made under another index",
    "table digest": "changed after it was written",
    "checkpoint": "of other weights, or a copy of another teacher's",
    "damaged": "put out of step on purpose",
    "split": "a split that the labels do not have",
    "length": "too few rows, or too many",
    "keys": "nothing shows which row is whose",
    "duplicate": "images with two rows",
    "missing": "images without a row",
    "extra": "rows of no image",
    "order": "the rows stand in another order",
    "label": "labels that contradict those of the images",
    "non-finite": "not a number (NaN), or infinite",
    "not a distribution": "not the probabilities or logits that they are said to be",
    "values": "the values are not those of their images",
}
