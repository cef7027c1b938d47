"""Images without labels, in folders of any names: the split `transfer`, which the teachers alone label.

No directory is taken for one by itself: it is named in corpus.yaml.
"""

from collections.abc import Iterator
from pathlib import Path

from .. import sources
from ..labels import Labels
from ..sources import Dropped, Options, Record, Row, part_of


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every file, in the order of its path; the first folder, if it is named as one, is the official part."""
    for image in sources.images_in(root, path):
        if isinstance(image, Dropped):
            yield image
        else:
            first, _, below = image.removeprefix(f"{sources.join(path)}/").partition("/")
            yield labels.unlabelled(Record(image, "", part_of(first) if below else None, image=image))
