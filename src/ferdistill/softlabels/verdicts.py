"""One verdict on each file of soft labels: the gate where there are keys, the canary for the values, in one call."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import alignment, canary
from .holding import Held
from .labelled import Labelled, of_index
from .parts import SoftLabels

if TYPE_CHECKING:
    from ..data.index import Index

COMMAND = re.compile(r"`(ferdistill align repair [^`]*)`")
IN_STEP, OUT_OF_STEP, CANNOT_TELL = "in step", "out of step", "cannot tell"


def check(
    paths: Sequence[Path],
    against: "Index | Labelled",
    classes: list[str],
    checkpoints: dict[str, str] | None = None,
    with_canary: bool = True,
) -> dict[str, Any]:
    """Hold soft labels against a table of labels: their keys by `alignment.gate`, their values by `canary.compare`.

    Keys in order do not say that the values are theirs, so the canary sees those too, where the gate finds nothing
    wrong; rows without keys it sees alone.

    Returns
    -------
    dict
        What the gate reports, and
        - `canary`: `results` as `canary.compare` gives them, and `ok`: whether every verdict is "aligned"; not there
          `with_canary` off;
        - more `problems`: of kind `values` for each verdict "misaligned", `row` being the likeliest first row out of
          step; and of kind `keys` where nothing vouches for the order of rows without paths, the verdict being
          "inconclusive" (of rows with paths it is no problem);
        - `classes`, and `classes_from`: how they are known;
        - `verdicts`: {dir, verdict, why, mend} for each path: "in step", "out of step" or "cannot tell", in words
          why, and the command that mends it or None.
    """
    report, sets = alignment.gate(paths, against, classes, checkpoints, keyless=with_canary)
    images = against if isinstance(against, Labelled) else None
    named = {"classes": classes, "classes_from": "the index" if images is None else images.classes_from}
    if with_canary:
        faulty = {problem["dir"] for problem in report["problems"]}
        in_step = [one for one in sets if one[0].directory.as_posix() not in faulty]
        results = canary.compare(in_step, images or of_index(against)) if in_step else []  # type: ignore[arg-type]
        report = _with_canary(report, results, in_step)
    return report | named | {"verdicts": [_verdict(report, path.as_posix()) for path in paths]}


def _with_canary(
    report: dict[str, Any], results: list[dict[str, Any]], sets: Sequence[tuple[SoftLabels, list[Held]]]
) -> dict[str, Any]:
    keyed = {soft.directory.as_posix(): soft.keyed for soft, _ in sets}
    expected = "soft labels whose arg-max agrees with the labels of their images"
    problems = []
    seen = {(found["dir"], found["split"]) for found in results}
    for soft, held in sets:
        for one in held:
            if one.part.paths is None and not soft.keyed and (soft.directory.as_posix(), one.split) not in seen:
                place, text = (soft.directory, one.split), "no paths, and no labels to hold the values against"
                problems.append(
                    alignment.problem(*place, "keys", None, "a path for each row", text, "bring a path for each row")
                )
    for found in results:
        place = Path(found["dir"]), found["split"]
        agree = f"({found['agreement']:.1%} agree, {found['chance']:.1%} by chance)"
        if found["verdict"] == "misaligned":
            text = f"{found['why']} {agree}" + (
                f"; the image of that row is {found['slip_path']}" if found["slip_path"] else ""
            )
            problems.append(alignment.problem(*place, "values", found["slip_row"], expected, text, found["hint"]))
        elif found["verdict"] == "inconclusive" and not keyed[found["dir"]]:
            hint = "bring a path for each row, or the soft labels of other teachers beside these"
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
    told = [f"{found['split'] or 'all'} {found['agreement']:.1%}" for found in results]
    if problems:
        first, kinds = problems[0], {problem["kind"] for problem in problems}
        seen = [found["why"] for found in results if found["split"] == first["split"] and found["verdict"] != "aligned"]
        commands = [command for problem in problems for command in COMMAND.findall(str(problem["hint"]))]
        mend = commands[0] if commands and kinds <= REPAIRABLE else None
        why = seen[0] if seen and kinds <= {"values", "keys"} else WORDS[first["kind"]]
        return {"dir": path, "verdict": CANNOT_TELL if kinds == {"keys"} else OUT_OF_STEP, "why": why, "mend": mend}
    soft = next(soft for soft in report["soft_labels"] if soft["dir"] == path)
    keys = "every path in its row" if all(held["paths"] for held in soft.get("held", [])) else ""
    sure = all(found["verdict"] == "aligned" for found in results)
    values = f"arg-max and labels agree as they do {'in step' if sure else 'in step, as far as they tell'}"
    why = "; ".join(filter(None, (keys, f"{values} ({', '.join(told)})" if told else "")))
    return {"dir": path, "verdict": IN_STEP, "why": why, "mend": None}


REPAIRABLE = {"classes", "duplicate", "extra", "length", "missing", "order", "split", "values"}
WORDS = {
    "classes": "the columns are not these classes in this order",
    "temperature": "the values were softened",
    "index digest": "made under another index",
    "table digest": "changed after it was written",
    "checkpoint": "of other weights, or a copy of another teacher's",
    "damaged": "put out of step on purpose",
    "split": "a split that the labels do not have",
    "length": "rows are missing or too many",
    "keys": "nothing shows which row is whose",
    "duplicate": "an image has two rows",
    "missing": "an image has no row",
    "extra": "a row is of no image",
    "order": "the rows stand in another order",
    "label": "labels that contradict those of the images",
    "non-finite": "numbers that are none",
    "not a distribution": "not the probabilities or logits that they are said to be",
    "values": "the values are not those of their images",
}
