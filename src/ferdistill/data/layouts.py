"""What an adapter recognises its corpus by: the files of a corpus directory, and what it says of them."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckError
from .labels import Labels
from .sources import file_names, has_image_suffix, is_clutter, table_header


@dataclass(frozen=True)
class Layout:
    """A place that an adapter can read; `path` and `options` are as in corpus.yaml."""

    path: str
    evidence: str  # what it was recognised by, and what else it could have been; one line
    options: dict[str, Any] = field(default_factory=dict)
    whole: bool = False  # whether the adapter reads every image below `path`, whoever put it there
    positions: bool = False  # whether whole numbers from 0, one for each class of params.yaml, are its positions there


@dataclass(frozen=True)
class LeftOut:
    """Something that was recognised and is better not a source, and why."""

    path: str
    reason: str


Found = Iterator[Layout | LeftOut]


class Tree:
    """The files of a corpus directory by folder, and the first lines of its tables."""

    def __init__(self, root: Path, labels: Labels) -> None:
        self.root = root
        self.labels = labels  # which names are classes of params.yaml
        self.found: list[Layout | LeftOut] = []  # what adapters that come before have recognised
        self.files = [name for name in file_names(root) if not is_clutter(name)]
        self.images = [name for name in self.files if has_image_suffix(name)]
        self.by_folder: dict[str, list[str]] = defaultdict(list)
        for name in self.files:
            self.by_folder[parent(name)].append(name)
        self.folders = {"."}
        for folder in self.by_folder:
            while folder not in self.folders:
                self.folders.add(folder)
                folder = parent(folder)
        self.headers = {name: _header(root / name) for name in self.files if name.lower().endswith(".csv")}

    def images_below(self, folder: str) -> list[str]:
        """Images in a folder and in the folders below it."""
        return [name for name in self.images if is_below(name, folder)]

    def ending(self, name: str) -> list[str]:
        """The folders in which a file or folder of this relative path lies."""
        places = [place for place in (*self.files, *sorted(self.folders)) if f"/{place}".endswith(f"/{name}")]
        return [place.removesuffix(name).rstrip("/") or "." for place in places]


def parent(path: str) -> str:
    """The folder in which a file or folder lies; of what lies in the corpus directory itself, `.`."""
    return path.rpartition("/")[0] or "."


def last(path: str) -> str:
    """The name of a file or folder."""
    return path.rpartition("/")[2]


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder's, or one of what it holds."""
    return folder == "." or path == folder or path.startswith(f"{folder}/")


def _header(file: Path) -> list[str]:
    try:
        return table_header(file)
    except (UnicodeDecodeError, csv.Error, CheckError):
        return []


def count_rows(file: Path) -> int:
    """Rows of a table below its first line."""
    with file.open("rb") as handle:
        return sum(1 for line in handle if line.strip()) - 1


def bases_of(tree: Tree, fits: Callable[[str], bool], is_inner: Callable[[str], bool]) -> list[str]:
    """Folders of which every image fits, as one corpus names its own; of an image in an inner folder, the one above."""
    folders = {parent(name) for name in tree.images if fits(name)}
    bases = {parent(folder) if is_inner(last(folder)) else folder for folder in folders}
    return [base for base in sorted(bases) if all(map(fits, tree.images_below(base)))]
