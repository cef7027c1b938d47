"""Check params.yaml as a whole, so that a misspelt name stops a run that no other stage would notice."""

from ..corpus.reader import describe
from ..params import Params


def run(params: Params) -> None:
    """params.yaml -> nothing; reading it is the check."""
    if params.corpus != "embedded":  # which the next stage makes
        describe(params.corpus_dir)
    print(f"params.yaml is sound: {params.run_family}, {params.run_mode}, seed {params.seed}, scale {params.scale}")
