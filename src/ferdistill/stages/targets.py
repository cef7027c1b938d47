"""The gatekeeper: check every teacher's soft labels against the index, then write what the chosen family needs."""

from .. import workspace
from ..data import index
from ..files import write_json
from ..params import Params
from ..softlabels import alignment, families, gather


def run(params: Params) -> None:
    """Every teacher's soft labels -> data/targets/{targets.safetensors, plan.json, alignment.json}."""
    rows = index.read(workspace.index_csv(params.index_tag))
    stores = [workspace.softlabels(name, params.index_tag) for name in params.teachers]
    report = alignment.check(stores, rows, params.classes)
    write_json(workspace.TARGETS / "alignment.json", report)
    alignment.require(report)
    gather.write_targets(workspace.TARGETS, rows, params)
    family = families.run_family(params)
    print(f"{len(stores)} teachers in step with {len(rows.rows)} images; targets of {family} written")
