"""The controlled failure that the report deferred (§7.1): students trained on soft labels that lost step on purpose.

Every damaged store lies under `data/study/misalignment` and its manifest says so; the gate refuses it. Results carry
`misaligned: true` and are written apart from those of the pipeline.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from .. import workspace
from ..data.images import Pixels, load
from ..data.index import TRANSFER, Index, read
from ..distill.data import splits_of
from ..distill.inference import predict
from ..distill.student import train
from ..errors import UsageError
from ..evaluation.metrics import score
from ..files import atomic, read_json, sha256, write_json
from ..params import Params
from ..softlabels import alignment, canary, families, store, targets
from .schema import title_of

ROOT = workspace.MISALIGNMENT
DOSES = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0]
METRICS, TABLE, PICTURE = (
    workspace.METRICS / "study/misalignment.json",
    workspace.PLOTS / "study/misalignment.csv",
    workspace.PLOTS / "study/misalignment.png",
)


def orders(index: Index, doses: Sequence[float], seed: int) -> dict[tuple[str, float], np.ndarray]:
    """For each kind of damage, whose soft labels each training image gets.

    - `permuted`: some images have one another's.
    - `other order`: the soft labels come class by class, as a loader of class folders reads them.
    - `truncated`: those of a tenth of the images, the first, are missing; both were cut to one length.
    - `dropped row`: one row, a tenth of the way down, is missing; both were cut to one length.

    Doses, from 0 to 1, are shares of the training images whose soft labels are permuted among themselves; `seed` is of
    the choice of these images, a larger dose keeping those of a smaller one. Returns, by (fault, dose), rows of the
    train split, int64; shorter than the split where a fault cuts it. The dose of a fault other than `permuted` is the
    share of rows that it puts out of step.
    """
    rows = index.rows.iloc[index.positions("train")].reset_index(drop=True)
    n = len(rows)
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(n)
    made: dict[tuple[str, float], np.ndarray] = {}
    for dose in doses:
        order, some = np.arange(n), chosen[: round(dose * n)]
        order[some] = np.roll(some, 1)  # a cycle: no image keeps its own
        made["permuted", float(dose)] = order
    start = n // 10
    faults = {
        "other order": rows.sort_values(["label", "path"], kind="stable").index.to_numpy(),
        "truncated": np.arange(start, n),
        "dropped row": np.delete(np.arange(n), start),
    }
    for fault, order in faults.items():
        made[fault, float((order != np.arange(len(order))).mean())] = order
    return made


def measure(params: Params, doses: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """Train a student for each damage and seed, and ask the gate and the canary about each damaged store.

    What is done already is kept: a run that was broken off goes on where it stopped. Returns what is written to
    `METRICS`: `runs`, and `conditions` with means over seeds.

    Raises
    ------
    UsageError
        If the family has no teachers, or a dose is out of range.
    """
    if not families.distils(params):
        raise UsageError("the baseline has no soft labels to damage", where="params.yaml", hint="choose a family")
    if not doses or not seeds or min(doses) < 0 or max(doses) > 1:
        raise UsageError(f"doses {list(doses)}, seeds {list(seeds)}", expected="some, and doses from 0 to 1")
    index = read(workspace.index_csv(params.index_tag))
    images = load(workspace.images(params.index_tag), index)
    soft = targets.read(workspace.TARGETS, index, params)
    if params.views > 1:
        raise UsageError("misalignment is studied with one view", where="params.yaml, views", hint="set views to 1")
    if not isinstance(soft.logits, np.ndarray):
        raise UsageError(
            "misalignment is studied with the logits of all classes, in memory",
            where="params.yaml, top_k" if params.top_k is not None else "data/targets",
            hint="set top_k to null" if params.top_k is not None else "choose a smaller corpus",
        )
    if soft.covered is not None or TRANSFER in index.splits:
        raise UsageError(
            "misalignment is studied with teachers that cover every image, all of them labelled",
            where=f"params.yaml, family {params.family}, corpus {params.corpus}",
            hint="choose a family without partial teachers, and a corpus without unlabelled images",
        )
    runs: list[dict[str, Any]] = []
    conditions: list[dict[str, Any]] = []
    for (fault, dose), order in orders(index, doses, seed=0).items():
        name = fault.replace(" ", "_") + (f"_{dose:g}" if fault == "permuted" else "")
        seen = _inspect(params, index, soft, order, name)
        # A fault that cuts the soft labels cut the list of images with them.
        positions = index.positions("train")
        frame = index.rows.copy()
        frame.loc[positions[len(order) :], "split"] = "cut"
        shorter = replace(index, rows=frame)
        damaged = replace(soft, logits=np.ascontiguousarray(soft.logits[:, :, order]))
        of_seeds = []
        for seed in seeds:
            found = _train(params.model_copy(update={"seed": seed}), shorter, images, damaged, order, name)
            of_seeds.append({"misaligned": True, "fault": fault, "dose": dose, "seed": seed, **seen, **found})
        runs += of_seeds
        table = pd.DataFrame(of_seeds)
        means = {metric: float(table[metric].mean()) for metric in ("macro_f1", "ece")}
        told = {key: seen[key] for key in ("gate", "canary", "slip_row")}
        conditions.append({"fault": fault, "dose": dose, "seeds": len(of_seeds), **means, **told})
    result = {
        "run_family": families.run_family(params),
        "run_mode": families.run_mode(params),
        "scale": params.scale,
        "index_digest": index.digest,
        "train_rows": len(index.positions("train")),
        "misaligned": True,
        "conditions": conditions,
        "runs": runs,
    }
    write_json(METRICS, result)
    columns = ["fault", "dose", "seed", "macro_f1", "accuracy", "ece", "nll", "agreement", "canary"]
    with atomic(TABLE) as temporary:
        pd.DataFrame(runs)[columns].to_csv(temporary, index=False, lineterminator="\n")
    picture(result, PICTURE)
    return result


def _inspect(params: Params, index: Index, soft: targets.Targets, order: np.ndarray, name: str) -> dict[str, Any]:
    """Write the first teacher's damaged store, with keys and without, and ask the gate and the canary."""
    teacher = soft.plan["teachers"][0]["teacher"]
    table, manifest = store.read(workspace.softlabels(teacher, params.index_tag))
    positions = index.positions("train")
    whole = np.arange(len(index.rows), dtype=np.int64)
    rest = np.setdiff1d(whole, positions)
    kept = np.sort(np.concatenate([rest, positions[: len(order)]]))
    source = whole.copy()
    source[positions[: len(order)]] = positions[order]
    damaged = table.iloc[source[kept]].reset_index(drop=True)
    keyed, keyless = ROOT / name / "keyed", ROOT / name / "keyless"
    logits = store.logits_of(damaged, params.classes)
    lost = replace(index, rows=damaged[["path", "split", "label"]])
    origin: dict[str, Any] = {"checkpoint_sha256": manifest["checkpoint_sha256"], "provenance": {"damaged": name}}
    store.write(keyed, lost, logits, params.classes, teacher=teacher, **origin)
    with atomic(keyless / "train_logits.npy") as temporary:
        np.save(temporary, logits[damaged["split"] == "train"])
    report = alignment.check([keyed], index, params.classes)
    (verdict,) = canary.check([keyless], index)["results"]
    gate = sorted({problem["kind"] for problem in report["problems"]} - {"damaged"})
    return {"gate": gate, "canary": verdict["verdict"], **{key: verdict[key] for key in ("agreement", "slip_row")}}


def _train(
    params: Params, index: Index, images: Pixels, soft: targets.Targets, order: np.ndarray, name: str
) -> dict[str, float]:
    facts = {
        "params": params.model_dump(mode="json", exclude={"scales", "families", "index", "benchmark", "export"}),
        "scale": params.scale_.model_dump(mode="json"),
        "targets": soft.plan["sha256"],
        "order": sha256(order.tobytes()),
    }
    done = ROOT / name / f"{sha256(json.dumps(facts, sort_keys=True))[:16]}.json"
    if done.is_file():
        return read_json(done)
    network, _ = train(params, index, images, soft, misaligned=True)
    _, _, test = splits_of(index, images, params.classes)
    scores = score(predict(network, test), test.labels, params.classes, bins=params.calibrate.bins)
    found = {key: scores[key] for key in ("macro_f1", "accuracy", "ece", "nll")}
    write_json(done, found)
    return found


def picture(result: dict[str, Any], path: Path) -> None:
    """Draw macro F1 and ECE against the dose, the historic faults beside them, and what gate and canary say."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs, conditions = pd.DataFrame(result["runs"]), pd.DataFrame(result["conditions"])
    permuted, faults = (conditions[(conditions["fault"] == "permuted") == is_] for is_ in (True, False))
    clean = permuted[permuted["dose"] == 0]
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), sharey="row", width_ratios=[1.8, 1], layout="constrained")
    colours = {"aligned": "#009E73", "inconclusive": "#E69F00", "misaligned": "#D55E00"}
    for (left, right), metric in zip(axes, ("macro_f1", "ece"), strict=True):
        left.plot(permuted["dose"], permuted[metric], color="0.6", zorder=1)
        for part, axis in ((permuted, left), (faults, right)):
            for place, condition in enumerate(part.to_dict("records")):
                x = condition["dose"] if axis is left else place
                same = (runs["fault"] == condition["fault"]) & (runs["dose"] == condition["dose"])
                values, colour = runs.loc[same, metric], colours[condition["canary"]]
                axis.scatter([x] * len(values), values, s=14, color=colour, alpha=0.5, zorder=2)
                marker = "s" if condition["gate"] else "o"
                axis.scatter([x], [values.mean()], s=60, color=colour, marker=marker, zorder=3)
            for value in clean[metric][:1]:
                axis.axhline(value, color="0.6", linewidth=1, linestyle="--")
            axis.spines[["top", "right"]].set_visible(False)
        left.set_ylabel(f"{title_of(metric)} on test")
        right.set_xticks(range(len(faults)), faults["fault"])
        right.set_xlim(-0.5, len(faults) - 0.5)  # so that the outer names stay inside the picture
    axes[1, 0].set_xlabel("share of training images with another image's soft labels")
    marks = [(f"canary: {key}", "D", colour) for key, colour in colours.items()]
    marks += [("gate: in step", "o", "0.3"), ("gate: out of step", "s", "0.3")]
    handles = [plt.Line2D([], [], marker=mark, linestyle="", color=c, label=text) for text, mark, c in marks]
    handles.append(plt.Line2D([], [], linestyle="--", color="0.6", label="intact"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"Students of {result['run_family']} {result['run_mode']} on soft labels out of step")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
    plt.close(figure)
