"""What the corpus's own tables say of an image, beside what its source says."""

from dataclasses import replace
from pathlib import Path

from ..errors import CheckError
from .reader import Correction
from .sources import Record


def agreed(record: Record, told: dict[str, str], corpus_dir: Path) -> dict[str, str]:
    """Attributes of who is shown, by its source and by the table; a CheckError where these contradict each other."""
    own = dict(record.attributes or {})
    for name, value in told.items():
        if own.setdefault(name, value) != value:
            raise CheckError(
                f"attributes that contradict each other: {name} of {record.path} is {own[name]} by its source, and "
                f"{value} by the table of attributes",
                where=str(corpus_dir),
                expected="one value",
                hint="take the row out of the table",
            )
    return own


def corrected(record: Record, correction: Correction, corpus_dir: Path) -> Record:
    """A record with the label that a person decided on; a CheckError where another label was looked at."""
    was, label, by = correction
    if was != record.label:
        raise CheckError(
            f"a correction of another label: {record.path} is {record.label or 'unlabelled'}, and was {was} for {by}",
            where=str(corpus_dir),
            expected="the label that was looked at",
            hint="look at the image again, or take the row out of the table of corrections",
        )
    return replace(record, label=label)
