"""The model card."""

from typing import Any

import pandas as pd

from ..markdown import escaped

ALONE = """
- Nothing said whose an image is, so each counts as another person's. Where people recur, scores, intervals and
  guarantees are better here than they will be for new people."""


def model_card(info: dict[str, Any], sources: pd.DataFrame, caution: str = "", named: bool = True) -> str:
    """The model card, Markdown, of what `bundle.json` holds and of the images by source (rows) and split (columns).

    `caution`, Markdown, is what must be said of the use of such a model; empty for no such section. `named` is whether
    anything says of any image whose it is.
    """
    test, task = info["test"], {name: escaped(str(word)) for name, word in info["task"].items()}
    classes = ", ".join(map(escaped, info["classes"]))
    size, channels = info["image"]["size"], info["image"]["channels"]
    recipe = (
        "cross-entropy alone, without teachers"
        if info["run_family"] == "none"
        else f"distillation of teacher family {escaped(info['run_family'])}, mode {info['run_mode']}"
    )
    splits = [name for name in ("train", "val", "calib", "test", "transfer") if name in sources.columns]
    data = "\n".join(
        " | ".join([f"| {escaped(str(source))}", *(str(row[name]) for name in splits)]) + " |"
        for source, row in sources.iterrows()
    )
    scores = "\n".join(f"| {escaped(name)} | {value:.3f} |" for name, value in test["f1"].items())
    ethics = f"\n## Ethics\n{caution}" if caution else ""
    alone = "" if named else ALONE
    abstention = info["abstention"]
    answers = "it would answer none of the images"
    if abstention["accuracy"] is not None:
        right = f"{abstention['accuracy']:.1%} of these answers are right"
        answers = f"it answers {abstention['coverage']:.1%} of the images, and {right}"
    return f"""# Classifier of {task["things"]} by {task["label"]}

{info["architecture"]}, {recipe}, seed {info["seed"]}.
One {task["thing"]} in, probabilities of {len(info["classes"])} {task["labels"]} out: {classes}.

```python
from ferdistill.runtime.classifier import Classifier  # pip install ferdistill[runtime]

classifier = Classifier(".")  # this directory
probabilities = classifier.predict(images)  # uint8 (N, H, W, 1 or 3) -> (N, {len(info["classes"])})
```

## Intended use
Research on classifying {task["things"]} by {task["label"]} and on distillation. The input is one picture of one
{task["thing"]}, uint8, grey or RGB, of any size, cropped as the training images were. The file itself makes it
{"RGB" if channels == 3 else "grey"} and resizes it to {size} x {size} pixels (bilinear, antialiased; a crop that is
not square is squeezed, as in training).
Probabilities are softmax(logits / T*) with T* = {info["t_star"]:.4g}, fitted on the calib split.

## Files
{_files(info)}

## Training data
Images by source and split, after exact duplicates, label conflicts and leaks were dropped.
Index digest `{info["index_digest"]}`.

| Source | {" | ".join(splits)} |
|---|{"---|" * len(splits)}
{data}
{_licences(info.get("licences"))}
## Metrics
Test split, n = {test["n"]}; used for nothing but this report.

| Metric | Raw | At T* |
|---|---|---|
| Macro F1 | {test["macro_f1"]:.3f} | the same |
| Accuracy | {test["accuracy"]:.3f} | the same |
| NLL | {test["raw"]["nll"]:.3f} | {test["scaled"]["nll"]:.3f} |
| Brier score | {test["raw"]["brier"]:.3f} | {test["scaled"]["brier"]:.3f} |
| ECE | {test["raw"]["ece"]:.3f} | {test["scaled"]["ece"]:.3f} |

A perfectly calibrated model would show an ECE of about {test["ece_null"]:.3f} on a test split of this size:
an ECE near it is no sign of miscalibration.

| Class | F1 |
|---|---|
{scores}

## What may be acted on
{_acting(info, answers)}
{_groups(test.get("groups", {}))}{_robustness(test.get("robustness"))}
## Limits
- One training run. Another seed gives other numbers; differences between runs need several seeds.
- Scores hold for images like the test split's. Other cameras, crops and subjects were not measured.
- Calibration holds for the class frequencies of the calib split.
- Classes with a low F1 above are not to be relied on.{alone}
{ethics}"""


def _licences(told: dict[str, Any] | None) -> str:
    """What the sources say that they are licensed under; nothing where that was not asked."""
    if told is None:
        return ""
    lines = ["\n| Source | Licence |", "|---|---|"]
    for name, of in told["sources"].items():
        where = f", {escaped(of['url'])}" if of["url"] else ""
        lines.append(f"| {escaped(name)} | {of['licence']}{where} |")
    lines.append(
        f"\nThe strictest of these is {told['strictest']}; one that nobody knows counts as such. Whether a licence of "
        "images binds a model that learnt from them, or from teachers that did, is not said here.\n"
    )
    return "\n".join(lines)


def _acting(info: dict[str, Any], answers: str) -> str:
    """Threshold, sets and alerts, each with what is guaranteed of it, or that nothing is."""
    of, sets, alerts = info["guarantee"], info["sets"], info["alerts"]
    basis = "no guarantee could be given of it with so few images"
    if of is not None:
        basis = (
            f"fitted on calib, {of['people']} people, so that at most {of['risk']:.0%} of the answers are wrong, of "
            f"images like those and of new people; {of['failure']:.0%} of such fits may miss that"
        )
    at = info["thresholds"]["confidence"]
    when = f"where the largest probability is under {at:.4g}" if at > 0 else "nowhere"
    lines = [f"- Abstain {when} (`thresholds.confidence` in bundle.json): {basis}. On test {answers}."]
    unlimited = [escaped(name) for name, limit in sets["limits"].items() if limit is None]
    lines.append(
        f"- Prediction sets (`sets`, {sets['method']}) hold the truth of a new person's image with a probability of at "
        f"least {sets['coverage']:.0%}{', whichever class it is of' if sets['by_class'] else ''}."
        + (f" For want of people in calib they always hold {', '.join(unlimited)}." if unlimited else "")
    )
    found = ", ".join(
        f"{escaped(name)} from {at:.3f} on" for name, at in alerts["thresholds"].items() if at is not None
    )
    lines.append(
        f"- Alerts (`alerts`) are right in at least {alerts['precision']:.0%}, of each class by itself, "
        f"{alerts['failure']:.0%} of such fits apart: {found}. No other class may raise one."
        if found
        else f"- No class may raise alerts: of none could a precision of {alerts['precision']:.0%} be shown on calib."
    )
    return "\n".join(lines)


def _groups(groups: dict[str, Any]) -> str:
    """For whom it errs, by what sources say of who is shown; nothing where they say nothing."""
    if not groups:
        return ""
    lines = ["\n## For whom it errs", "Nothing was inferred from an image: attributes are those that sources name."]
    for name, of in groups.items():
        lines += [f"\n| {escaped(name)} | Images | People | Macro F1 | Interval |", "|---|---|---|---|---|"]
        for group, one in of["groups"].items():
            scores = (
                "too few |"
                if "macro_f1" not in one
                else f"{one['macro_f1']:.3f} | {one['low']:.3f} to {one['high']:.3f}"
            )
            lines.append(f"| {escaped(group)} | {one['images']} | {one['people']} | {scores} |")
        if of["gap"] is not None:
            lines.append(
                f"\nThe largest gap is {of['gap']:.3f}; chance alone makes one as large with p = "
                f"{of['gap_p_holm']:.3g}, adjusted over the attributes."
            )
    return "\n".join(lines) + "\n"


def _robustness(found: dict[str, Any] | None) -> str:
    """How it does on worse images, in the mean over the steps of each corruption; nothing where it was not measured."""
    if not found:
        return ""
    rows = {"none": found["clean"], **found["corruptions"], "mean of all": found["mean"]}
    lines = [
        "\n## On worse images",
        "The test images under six corruptions of five steps each, after ImageNet-C (Hendrycks & Dietterich 2019): a "
        "row is the mean over its steps, NLL and ECE are at T\\*. The guarantees above are of images like those of "
        "calib, and not of these.\n",
        "| Corruption | Macro F1 | NLL | ECE | Answered | Wrong among the answers |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in rows.items():
        wrong = "no answers" if of["errors"] is None else f"{of['errors']:.1%}"
        lines.append(
            f"| {name.replace('_', ' ')} | {of['macro_f1']:.3f} | {of['nll']:.3f} | {of['ece']:.3f} | "
            f"{of['answered']:.1%} | {wrong} |"
        )
    return "\n".join(lines) + "\n"


def _files(info: dict[str, Any]) -> str:
    lines = ["- `model.onnx`: float32. It gives torch's probabilities and classes on the whole test split."]
    int8 = info["int8"]
    if int8 is not None:
        what = "every layer" if not int8["float_layers"] else f"{int8['layers'] - len(int8['float_layers'])} layers"
        figures = "; ".join(
            f"on {split.replace('_', ' ')} it loses {100 * int8[split]['macro_f1_loss']:.2f} points of macro F1, ECE "
            f"rises by {int8[split]['ece_rise']:.3f}, and {int8[split]['same_class']:.1%} of images keep their class"
            for split in ("val_and_calib", "test")
        )
        lines.append(
            f"- `model.int8.onnx`: {what} of {int8['layers']} in int8; {figures}."
            if int8["taken"]
            else f"- No int8: with {len(int8['float_layers'])} of {int8['layers']} layers left in float, {figures}."
        )
        lines.append("  It was judged on val and calib alone; negative figures are gains, which are chance.")
    return "\n".join(lines)
