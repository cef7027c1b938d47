"""Build the canonical index of the corpus."""

import pandas as pd

from .. import workspace
from ..data import index, truth
from ..data.build import build, write_index
from ..data.description import told_licences
from ..data.memo import memo
from ..data.sheets import write_sheets
from ..files import atomic, write_json
from ..params import Params
from ..plain import cell, shown

STEPS = ("dropped", "quarantined", "conflict", "duplicate", "leak")
FEW = 5  # images of a class in a split, below which its scores say next to nothing


def run(params: Params) -> None:
    """data/raw/CORPUS -> data/index/TAG{.csv,.json,.report.json,.left_out.csv,_sheets}, metrics and a plot."""
    corpus = workspace.corpus(params.corpus)
    with memo(workspace.memo()) as known:
        built = build(corpus, params.classes, params.index, memo=known)
    rows, report = built.rows, built.report | {"licences": told_licences(corpus)}
    csv = workspace.index_csv(params.index_tag)
    description = write_index(csv, rows, params.classes, params.corpus)
    write_json(csv.with_suffix(".report.json"), report)
    with atomic(csv.with_suffix(".left_out.csv")) as temporary:
        built.left_out.map(cell).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    sheets = csv.with_name(f"{csv.stem}_sheets")
    write_sheets(sheets, index.Index(rows, description), report, corpus, params.classes)

    kinds = pd.Series([copy["kind"] for copy in report["duplicates"]], dtype=str).value_counts()
    by_class = rows["label"].value_counts()[params.classes]
    metrics = {
        "rows_listed": report["rows_listed"],
        "indexed": len(rows),
        "left_out": {step: report["left_out"].get(step, 0) for step in STEPS},
        "duplicates": {kind: int(kinds.get(kind, 0)) for kind in ("exact", "near", "mirrored")},
        "conflicts": len(report["conflicts"]),
        "images_in": {split: part["length"] for split, part in description["splits"].items()},
        "images_of": {name: int(by_class[name]) for name in params.classes},
        "images_from": {str(name): int(n) for name, n in rows["source"].value_counts().sort_index().items()},
        "imbalance": float(by_class.max() / by_class.min()),
        "stratification_deviation": report["stratification"]["largest_deviation"],
    }
    ceiling = truth.ceiling(corpus, rows, params.classes)
    write_json(workspace.METRICS / "index.json", metrics | ({"ceiling_macro_f1": ceiling} if ceiling else {}))
    counts = pd.crosstab(rows["label"], rows["split"]).reindex(index=params.classes, columns=index.SPLITS)
    table = counts.rename_axis("class").reset_index().melt("class", var_name="split", value_name="images")
    with atomic(workspace.PLOTS / "class_counts.csv") as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    print(
        f"{report['rows_listed']} rows listed, {len(rows)} images indexed; left out: "
        + (", ".join(f"{count} {step}" for step, count in report["left_out"].items()) or "none")
    )
    few = table[table["split"].isin(["val", "calib", "test"]) & (table["images"] < FEW)]
    if len(few):
        listed = zip(few["images"], few["class"], few["split"], strict=True)
        told = ", ".join(f"{images} of {shown(name)} in {split}" for images, name, split in listed)
        print(f"few images: {told}; `ferdistill index seed` finds a better split, or raise index.val, .calib or .test")
    if (rows["subject"] == "").all():
        print(
            "no image says whose it is: each counts as another person's, in splits, intervals and guarantees; where "
            "people recur, name them in a table (docs/corpora.md, subjects)"
        )
