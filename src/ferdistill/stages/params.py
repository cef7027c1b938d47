"""Check params.yaml as a whole, so that a misspelt name stops a run that no other stage would notice."""

from .. import workspace
from ..data.description import read_description
from ..distill import weights
from ..files import write_json
from ..params import Params
from ..softlabels import families


def run(params: Params) -> None:
    """params.yaml, pretrained/ -> data/checked/params.json, and weights/NAME.json for each network.

    Every stage depends on the first, which never changes, so none runs before this check. Each network depends on the
    file that is its own.
    """
    if params.corpus != workspace.EMBEDDED.name:  # which the next stage makes
        read_description(workspace.corpus(params.corpus), params.classes)
    networks = {name: params.scale_.teachers[name] for name in params.teachers} | {"student": params.scale_.student}
    for name, network in networks.items():
        write_json(workspace.checked_weights(name), weights.facts(network, f"scales.{params.scale}, {name}"))
    write_json(workspace.CHECKED / "params.json", {"sound": True})
    family, mode = families.run_family(params), families.run_mode(params)
    print(f"params.yaml is sound: {family}, {mode}, seed {params.seed}, scale {params.scale}")
