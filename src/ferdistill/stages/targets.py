"""The gatekeeper: check every teacher's soft labels against the index, then write what the chosen family needs."""

from pathlib import Path

from ..corpus import index
from ..files import write_json
from ..params import Params
from ..softlabels import alignment, targets


def run(params: Params) -> None:
    """Every teacher's soft labels -> data/targets/{targets.safetensors, plan.json, alignment.json}."""
    rows = index.read(params.index_csv)
    report = alignment.check([params.softlabels_dir(name) for name in params.teachers], rows, params.classes)
    write_json("data/targets/alignment.json", report)
    alignment.require(report)
    targets.write(Path("data/targets"), rows, params)
    print(
        f"{len(params.teachers)} teachers in step with {len(rows.rows)} images; targets of {params.run_family} written"
    )
