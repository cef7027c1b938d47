"""Render the embedded corpus."""

from pathlib import Path

from ..corpus.synthetic import write_corpus
from ..files import write_json
from ..params import Params


def run(params: Params) -> None:
    """Params -> data/raw/embedded, metrics/corpus.json."""
    settings = params.scale_.corpus
    counts = write_corpus(
        Path("data/raw/embedded"),
        seed=settings.seed,
        subjects=settings.subjects,
        images=settings.images,
        annotators=settings.annotators,
        sharpness=settings.sharpness,
    )
    write_json("metrics/corpus.json", counts)
