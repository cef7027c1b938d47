"""Hold the figures of README and docs/ to the committed tables: `python docs/figures.py`, or with --check alone.

A figure stands in a sentence, given here with `{}` for each number. What is there is looked for with any numbers in
their places and any ends of lines between its words, and gets those that metrics/ holds now. So words are edited in
the pages and here, numbers nowhere.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ferdistill import params, workspace
from ferdistill.study import contrasts, grid, recipes, results, statistics

ROOT = Path(__file__).parents[1]
NUMBER = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?"
Figure = tuple[str, str, list[str]]  # a page, a sentence, and the numbers in it as they are to be written


def metrics(name: str) -> Any:
    """A file of metrics/."""
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def of_the_corpus() -> Iterator[Figure]:
    """The test split, its ceiling and the teachers."""
    settings = params.load(ROOT / "params.yaml")
    teachers = [metrics(f"teachers/{name}")["test"]["macro_f1"] for name in settings.teachers]
    yield (
        "README.md",
        "on {} test images of {} people not trained on",
        [str(metrics("evaluation")["test"]["n"]), str(metrics("intervals")["people"])],
    )
    ceiling = metrics("index")["ceiling_macro_f1"]["test"]
    yield (
        "README.md",
        "has a macro F1 of {}; the teachers (ResNet18, ConvNeXt, EfficientNet, ViT) have {}, {}, {} and {}.",
        [f"{value:.3f}" for value in (ceiling, *teachers)],
    )


def of_the_study() -> Iterator[Figure]:
    """Recipes beside labels alone, on the test split and on the large test set, whose predictions are not kept."""
    settings = params.load(ROOT / "params.yaml")
    frame, other = (results.read(ROOT / table) for table in (workspace.SUMMARY, workspace.RESCORED))
    rows = {
        "none": "labels alone (none)",
        "6A:kd": "two teachers, fused (6A, kd)",
        "6E:kd": "four teachers, split (6E, kd)",
    }
    for selector, title in rows.items():
        both = [recipes.select(table, selector) for table in (frame, other)]
        means = [f"{runs[name].mean():.3f}" for runs in both for name in ("macro_f1", "nll_scaled")]
        yield "README.md", f"| {title} | {{}} | {{}} | {{}} | {{}} | {{}} |", [str(len(both[0])), *means]
    design = grid.read(ROOT / workspace.STUDY_GRID).primary
    assert design is not None
    of_two = design.model_copy(update={"candidate": "6A:kd", "baselines": ["none"]})
    found = [[one for d in (design, of_two) for one in contrasts.primary(t, d, settings)] for t in (frame, other)]
    for here, there in zip(*found, strict=True):
        names = [here[side].partition(":")[0] for side in ("candidate", "baseline")]
        title = {"macro_f1": "macro F1", "nll": "NLL"}[here["metric"]]
        numbers = [f"{value:+z.3f}" for one in (here, there) for value in (one["difference"], *one["interval"])]
        cell = "{} ({} to {})"
        yield "README.md", f"| {names[0]} less {names[1]}, {title} | {cell} | {cell} |", numbers
    spreads = [
        100 * statistics.pooled_variance([runs["macro_f1"] for _, runs in t.groupby(["family", "mode"])])[0] ** 0.5
        for t in (frame, other)
    ]
    yield (
        "README.md",
        "Seeds of one recipe spread by {} points of macro F1 there, by {} on the large set;",
        [f"{spread:.1f}" for spread in spreads],
    )
    yield (
        "docs/reviewing.md",
        "has a standard deviation of {} points of macro F1 here, so that two runs of one recipe differ by up to {}.",
        [f"{spreads[0]:.1f}", f"{1.96 * 2**0.5 * spreads[0]:.1f}"],
    )


def of_misalignment() -> Iterator[Figure]:
    """What soft labels out of step cost a student."""
    found = {(one["fault"], one["dose"]): one for one in metrics("study/misalignment")["conditions"]}
    intact, other, fifth = found["permuted", 0.0], found["other order", 1.0], found["permuted", 0.2]
    points = [f"{100 * (intact['macro_f1'] - one['macro_f1']):.1f}" for one in (other, fifth)]
    yield "README.md", "A list in another order costs {} points of macro F1.", points[:1]
    yield (
        "docs/why-alignment.md",
        "in another order costs {} points of macro F1 and multiplies ECE by {}.",
        [points[0], f"{other['ece'] / intact['ece']:.1f}"],
    )
    yield "docs/why-alignment.md", "with a fifth of the soft labels permuted it costs {} points", points[1:]


def of_calibration() -> Iterator[Figure]:
    """The default student before and after T*."""
    page = "docs/calibration.md"
    test, people, fitted = metrics("evaluation")["test"], metrics("intervals"), metrics("calibration")
    yield page, "{} test images of {} people, 95 % intervals:", [str(test["n"]), str(people["people"])]
    for name in ("nll", "brier", "ece", "ece_smooth", "ece_classwise"):
        cells, numbers = [], []
        for form in ("raw", "scaled"):
            ends = people[form][name]
            basic = [ends["basic_low"], ends["basic_high"]] if "basic_low" in ends else []
            cells.append("{} ({} to {}; basic {} to {})" if basic else "{} ({} to {})")
            numbers += [test[form][name], ends["low"], ends["high"], *basic]
        ends = people["scaled_less_raw"][name]
        numbers += [ends["low"], ends["high"]]
        yield page, f"| `{name}` | {' | '.join(cells)} | {{}} to {{}} |", [f"{value:.3f}" for value in numbers]
    both = [test["raw"], test["scaled"]]
    yield page, "| `ece_p` | {} | {} | |", [f"{one['ece_p']:.2f}" for one in both]
    law, annotator = test["truth"]["label"], test["truth"]["annotator"]
    rows = [
        ("KL from the law of the label", law, "kl"),
        *((f"`{name}` under it", law, name) for name in ("expected_nll", "expected_brier", "expected_gap")),
        ("KL from an annotator's distribution", annotator, "kl"),
    ]
    for title, truth, name in rows:
        yield page, f"| {title} | {{}} | {{}} | |", [f"{truth[form][name]:.3f}" for form in ("raw", "scaled")]
    scale = [fitted[name] for name in ("t_star", "t_star_low", "t_star_high")]
    yield (
        page,
        "T* is {} ({} to {}), the grid's choice {}.",
        [*(f"{value:.3f}" for value in scale), f"{fitted['t_star_grid']:g}"],
    )
    ideal = law["ideal"]
    yield (
        page,
        "The ideal classifier has an expected NLL of {}, a Brier score of {} and, on these labels, an ECE of {}; a "
        "calibrated model with this student's confidences would show {}.",
        [
            f"{value:.3f}"
            for value in (ideal["expected_nll"], ideal["expected_brier"], ideal["ece_of_ideal"], test["ece_null"])
        ],
    )
    tried = fitted["cross_validation"]
    yield (
        page,
        "the cross-validated NLL on `calib` is {} for temperature, {} for vector and {} for isotonic scaling "
        "({} people).",
        [*(f"{tried[name]['nll']:.3f}" for name in ("temperature", "vector", "isotonic")), str(tried["people"])],
    )


def of_int8() -> Iterator[Figure]:
    """What each attempt at int8 costs the default student."""
    page, found = "docs/deploying.md", metrics("export")["int8"]
    split = metrics("index")["images_in"]
    sizes = [split["val"] + split["calib"], split["test"]]
    yield page, "(6E, kd, seed 1337; {} images in val and calib, {} in test)", [str(size) for size in sizes]
    for title, one in zip(("first attempt", "second", "third", "fourth"), found["attempts"], strict=True):
        numbers = [str(one["float_layers"]), str(found["layers"]), f"{100 * one['macro_f1_loss']:.2f}"]
        numbers += [f"{one['ece_rise']:.3f}", f"{100 * one['same_class']:.1f}"]
        yield page, f"| {title} | {{}} of {{}} | {{}} points | {{}} | {{}} % |", numbers
    if found["taken"]:
        raise ValueError(f"{page} says that no int8 file is taken")
    test = [f"{100 * found['test'][name]:{form}}" for name, form in (("macro_f1_loss", ".2f"), ("same_class", ".1f"))]
    yield page, "on test the fourth loses {} points and keeps {} %.", test


def of_corruptions() -> Iterator[Figure]:
    """The default student on worse images."""
    steps = pd.read_csv(ROOT / "plots/robustness.csv")
    for name, mean in metrics("robustness")["corruptions"].items():
        of = steps.loc[steps["corruption"] == name, "macro_f1"]
        numbers = [*(f"{value:.3f}" for value in of), f"{100 * mean['answered']:.0f}", f"{100 * mean['errors']:.0f}"]
        yield "docs/acting.md", f"| {name.replace('_', ' ')} |{' {} |' * len(of)} {{}} % | {{}} % |", numbers


def figures() -> list[Figure]:
    """All of them."""
    return [*of_the_corpus(), *of_the_study(), *of_misalignment(), *of_calibration(), *of_int8(), *of_corruptions()]


def placed(text: str, sentence: str, numbers: list[str]) -> str:
    """The text with the numbers in its one sentence.

    Raises
    ------
    ValueError
        If it does not have the sentence, or more than once.
    """
    words = [re.escape(part).replace(r"\ ", r"\s+") for part in sentence.split("{}")]
    found = list(re.finditer(f"({NUMBER})".join(words), text))
    if len(found) != 1:
        raise ValueError(f"{len(found)} times: {sentence}")
    for place, number in sorted(enumerate(numbers, 1), reverse=True):
        start, end = found[0].span(place)
        text = text[:start] + number + text[end:]
    return text


def main() -> int:
    """Rewrite the pages, or with --check say which would change; 1 if any would, or if a sentence is not there."""
    pages: dict[str, str] = {}
    wrong = []
    for page, sentence, numbers in figures():
        text = pages.setdefault(page, (ROOT / page).read_text(encoding="utf-8"))
        try:
            pages[page] = placed(text, sentence, numbers)
        except ValueError as error:
            wrong.append(f"{page}: {error}")
            continue
        if pages[page] != text:
            wrong.append(f"{page}: {sentence.format(*numbers)}")
    if "--check" not in sys.argv:
        for page, text in pages.items():
            (ROOT / page).write_text(text, encoding="utf-8")
    print("\n".join(wrong) or "all figures are those of the tables")
    return bool(wrong) and ("--check" in sys.argv or any(" times: " in line for line in wrong))


if __name__ == "__main__":
    sys.exit(main())
