"""Render the embedded corpus."""

from .. import workspace
from ..faces.rendered import write_corpus
from ..files import write_json
from ..params import Params


def run(params: Params) -> None:
    """Params -> data/raw/embedded, metrics/corpus.json."""
    settings = params.scale_.corpus
    counts = write_corpus(
        workspace.EMBEDDED,
        seed=settings.seed,
        subjects=settings.subjects,
        images=settings.images,
        annotators=settings.annotators,
        sharpness=settings.sharpness,
        votes=settings.votes,
        transfer=settings.transfer,
    )
    write_json(workspace.METRICS / "corpus.json", counts)
