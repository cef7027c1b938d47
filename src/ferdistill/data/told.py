"""What the corpus's own tables say of an image, beside what its source says."""

from pathlib import Path

from ..errors import CheckError
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
