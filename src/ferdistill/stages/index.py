"""Build the canonical index of the corpus."""

from ..corpus import index, truth
from ..files import write_json
from ..params import Params


def run(params: Params) -> None:
    """data/raw/CORPUS -> data/index/TAG.csv, TAG.json, TAG.report.json, metrics/index.json."""
    rows, report = index.build(params.corpus_dir, params.classes, params.index)
    description = index.write(params.index_csv, rows, params.classes, params.corpus)
    write_json(params.index_csv.with_suffix(".report.json"), report)
    counts = report["counts"]
    metrics = {
        "read": counts["read"]["images"],
        "indexed": len(rows),
        "duplicates_dropped": len(report["duplicates"]),
        "conflicts_dropped": counts["read"]["images"] - counts["without_conflicts"]["images"],
        "leaks_dropped": len(report["leaks"]),
        "images_in": {split: part["length"] for split, part in description["splits"].items()},
        "images_of": counts["without_leaks"]["by_class"],
    }
    ceiling = truth.ceiling(params.corpus_dir, rows, params.classes)
    write_json("metrics/index.json", metrics | ({"ceiling_macro_f1": ceiling} if ceiling else {}))
    print(
        f"{counts['read']['images']} faces read, {len(rows)} indexed: {len(report['duplicates'])} duplicates, "
        f"{len(report['conflicts'])} label conflicts and {len(report['leaks'])} leaks dropped"
    )
