"""How often the crop canary finds crops that are cut otherwise, and how often it calls sound ones faulty.

The crops are of people whom the bundle has never seen: a large test set that `ferdistill corpus render` made, cut into
sets of which none shares an image with another. What is sound stays as it is; each fault is planted in whole sets. Of
the smaller faults no name is expected, for the canary knows the larger ones alone.
"""

import json
from pathlib import Path
from typing import Any

import measure
import numpy as np
from rich.console import Console
from rich.table import Table

from ferdistill import params, workspace
from ferdistill.data.reader import records_by_path
from ferdistill.faces import crops
from ferdistill.progress import track
from ferdistill.runtime.classifier import Classifier

EXAMPLES = """
  ferdistill corpus render data/raw/fresh --images 20000 --subjects 4000 --seed 2026
  python benchmarks/crops.py data/raw/fresh                      ten minutes
  python benchmarks/crops.py data/raw/fresh --sound 20 --faulty 5
"""
SIZE = 200
SMALLER = {
    "0.9 of the frame": crops.zoom(0.9),
    "1.2 of the frame": crops.zoom(1.2),
    "10 degrees clockwise": crops.turn(10.0),
    "10 degrees anticlockwise": crops.turn(-10.0),
}


def sets_of(corpus: Path, classes: list[str], count: int) -> list[list[np.ndarray]]:
    """`count` sets of `SIZE` crops, drawn from all images of a corpus without any twice."""
    records = list(records_by_path(corpus, classes).values())
    drawn = np.random.default_rng(0).permutation(len(records))[: count * SIZE]
    if len(drawn) < count * SIZE:
        raise SystemExit(f"{corpus} has {len(records)} images; {count} sets of {SIZE} want more")
    found = crops.read(corpus, [records[place] for place in drawn])
    return [found[start : start + SIZE] for start in range(0, len(found), SIZE)]


def main() -> None:
    """Check the sets, print and write."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("corpus", type=Path, help="of people whom the bundle was not trained on")
    parser.add_argument("--sound", type=int, default=100, help="sets that are as they are")
    parser.add_argument("--faulty", type=int, default=20, help="of these, sets in which each fault is planted")
    options = parser.parse_args()
    settings = params.load()
    classifier = Classifier(workspace.BUNDLE, 1, "cpu")
    reference = crops.Reference(classifier, *crops.crops_of_corpus(settings, workspace.corpus(settings.corpus)))
    sets = sets_of(options.corpus, settings.classes, max(options.sound, options.faulty))
    faults: dict[str, crops.Change] = {"none": lambda crop: crop, **crops.FAULTS, **SMALLER}
    result: dict[str, Any] = {}
    table = Table("fault", "sets", "called faulty", "of these by its name", title=f"sets of {SIZE} crops")
    for name, change in faults.items():
        chosen = sets[: options.sound if name == "none" else options.faulty]
        said = [crops.check(reference, [change(crop) for crop in one]) for one in track(chosen, name, len(chosen))]
        faulty = [report for report in said if not report["sound"]]
        named = sum(report["fault"] == name for report in faulty) if name in crops.FAULTS else None
        result[name] = {"sets": len(said), "faulty": len(faulty), "named": named}
        table.add_row(name, str(len(said)), str(len(faulty)), "" if named is None else str(named))
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
