"""Check params.yaml as a whole, so that a misspelt name stops a run that no other stage would notice."""

from ..params import Params


def run(params: Params) -> None:
    """params.yaml -> nothing; reading it is the check."""
    print(f"params.yaml is sound: {params.run_family}, {params.run_mode}, seed {params.seed}, scale {params.scale}")
