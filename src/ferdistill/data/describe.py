"""What lies in a corpus directory, and the corpus.yaml that says so. No image is decoded."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import CheckError, UsageError
from ..faces.corpora import affectnet, affectnet_npy, affectnet_yolo, ckplus48, expw, fer2013, jaffe, kdef, rafdb
from .corpora import folders
from .sources import (
    EXPRESSIONS,
    class_name,
    file_names,
    has_image_suffix,
    is_clutter,
    join,
    stays_inside,
    table_header,
    text_lines,
)

# Of copies the first source keeps its own: posed in a laboratory, then labelled by many, by few, by unknown hands.
PRECEDENCE = (
    "kdef", "ckplus", "ckplus48", "jaffe", "rafdb", "ferplus", "affectnet", "affectnet_npy", "affectnet_yolo", "expw",
    "fer2013", "folders",
)  # fmt: skip
WALKING = {"ckplus48", "jaffe", "kdef", "folders"}  # adapters that read every image below their path
SUBJECTS = "subjects.csv"
NAMED = 10  # folders of a kind that a line of evidence names


@dataclass(frozen=True)
class Source:
    """A source that was recognised.

    Attributes
    ----------
    adapter, path, options
        As in corpus.yaml.
    evidence : str
        What it was recognised by, and what else it could have been; one line.
    count : int
        Rows or images that its adapter will read, before any is dropped.
    name : str
        As in corpus.yaml: the adapter's name, numbered if there are several.
    """

    adapter: str
    path: str
    evidence: str
    count: int
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Something that was recognised and is better not a source, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Guess:
    """What lies in a corpus directory.

    Attributes
    ----------
    sources : tuple of Source
        In order of precedence, the better curated first.
    left_out : tuple of LeftOut
        In order of their paths.
    unrecognised : tuple of str
        Entries of the directory itself in which nothing was recognised.
    subjects : str or None
        The table of subjects, if there is one.
    """

    sources: tuple[Source, ...]
    left_out: tuple[LeftOut, ...]
    unrecognised: tuple[str, ...]
    subjects: str | None


Found = Iterator[Source | LeftOut]


class _Tree:
    """The files of a corpus directory by folder, and the first lines of its tables."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = [name for name in file_names(root) if not is_clutter(name)]
        self.images = [name for name in self.files if has_image_suffix(name)]
        self.by_folder: dict[str, list[str]] = defaultdict(list)
        for name in self.files:
            self.by_folder[_parent(name)].append(name)
        self.folders = {"."}
        for folder in self.by_folder:
            while folder not in self.folders:
                self.folders.add(folder)
                folder = _parent(folder)
        self.headers = {name: _header(root / name) for name in self.files if name.lower().endswith(".csv")}

    def images_below(self, folder: str) -> list[str]:
        """Images in a folder and in the folders below it."""
        return [name for name in self.images if _is_below(name, folder)]


def guess(corpus_dir: Path) -> Guess:
    """Recognise the public layouts in a directory, however deep they lie, by their tell-tale files.

    Raises
    ------
    UsageError
        If there is no such directory.
    CheckError
        If it holds a link to a folder, or a file name that is not text.
    """
    if not corpus_dir.is_dir():
        raise UsageError("no such corpus directory", where=str(corpus_dir), hint="name the folder of the corpus")
    tree = _Tree(corpus_dir)
    found = [item for layout in LAYOUTS for item in layout(tree)]
    sources = [item for item in found if isinstance(item, Source)]
    left_out = [item for item in found if isinstance(item, LeftOut)]
    for source in list(sources):
        reason = _unfit(source, sources)
        if reason:
            sources.remove(source)
            left_out.append(LeftOut(source.path, f"{source.adapter}, {reason}"))

    sources.sort(key=lambda source: (PRECEDENCE.index(source.adapter), source.path))
    seen: dict[str, int] = defaultdict(int)
    for place, source in enumerate(sources):
        seen[source.adapter] += 1
        number = seen[source.adapter]
        sources[place] = replace(source, name=source.adapter if number == 1 else f"{source.adapter}-{number}")

    places = [source.path for source in sources] + [item.path for item in left_out]
    entries = sorted({name.partition("/")[0] for name in tree.files} - {"corpus.yaml", SUBJECTS})
    return Guess(
        sources=tuple(sources),
        left_out=tuple(sorted(left_out, key=lambda item: (item.path, item.reason))),
        unrecognised=tuple(
            entry for entry in entries if not any(place == "." or _is_below(place, entry) for place in places)
        ),
        subjects=SUBJECTS if {"path", "subject"} <= set(tree.headers.get(SUBJECTS, ())) else None,
    )


def to_yaml(guess: Guess) -> str:
    """A corpus.yaml of what was recognised, with the evidence and what is left out as comments.

    Raises
    ------
    CheckError
        If nothing was recognised.
    """
    if not guess.sources:
        found = [*(f"{item.path}: {item.reason}" for item in guess.left_out), *guess.unrecognised]
        raise CheckError(
            "no corpus layout is recognised here",
            where=", ".join(found) or "an empty directory",
            expected=f"a layout of one of {', '.join(sorted(PRECEDENCE))}",
            hint="see the layouts in docs/corpora.md; class folders always do: train|val|test/CLASS/FILE, CLASS one of "
            + ", ".join(sorted(EXPRESSIONS)),
        )
    lines = ["sources:  # in order of precedence: where images are duplicated, the source named first keeps its own"]
    for source in guess.sources:
        entry: dict[str, Any] = {"name": source.name, "adapter": source.adapter, "path": source.path}
        if source.options:
            entry["options"] = source.options
        text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
        lines += [f"  # {source.count:,} rows: {source.evidence}", f"  - {text.strip()}"]
    if guess.subjects:
        lines.append(f"subjects: {guess.subjects}")
    lines += [f"# left out: {item.path}: {item.reason}" for item in guess.left_out]
    lines += [f"# not recognised: {entry}" for entry in guess.unrecognised]
    return "\n".join(lines) + "\n"


def _unfit(source: Source, sources: list[Source]) -> str:
    """Why a source that was recognised cannot be read where it lies; empty if it can."""
    if not all(stays_inside(path) for path in (source.path, *source.options.values())):
        return "in a path with a colon or backslash: rename its folder"
    inner = [
        f"{other.adapter} in {other.path}"
        for other in sources
        if other is not source and other.adapter not in ("fer2013", "ferplus") and _is_below(other.path, source.path)
    ]
    if source.adapter in WALKING and inner:
        return f"whose folder also holds {inner[0]}: move its own folders into one of their own"
    return ""


def _fer(tree: _Tree) -> Found:
    """FER2013's tables, and FER+, which needs one of them."""
    forms = {}
    for name, header in tree.headers.items():
        if "pixels" in header:
            if _last(name).lower().startswith("ck"):
                yield LeftOut(name, "a table like FER2013's by its columns, of CK+ by its name: the codes differ")
                continue
            try:
                forms[name] = fer2013.table_columns(tree.root / name)
            except CheckError as error:
                yield LeftOut(name, error.what)
    whole = {name: _count_rows(tree.root / name) for name, form in forms.items() if "Usage" in form}

    relabelled = set()
    for name, header in tree.headers.items():
        if not {"Usage", "Image name", "NF"} <= set(header):
            continue
        count = _count_rows(tree.root / name)
        fitting = [table for table, rows in whole.items() if rows == count]
        if not fitting:
            yield LeftOut(name, f"FER+, but there is no whole FER2013 table of {count:,} rows, as fer2013.csv is")
            continue
        table = min(fitting, key=lambda table: (_parent(table) != _parent(name), _last(table) != "fer2013.csv", table))
        relabelled |= set(fitting)
        yield Source("ferplus", name, f"votes for the {count:,} rows of {table}", count, {"fer2013": table})

    for name, form in forms.items():
        beside = [other for other in whole if _parent(other) == _parent(name) and other != name]
        same = [other for other in beside if whole.get(name, 0) == whole[other] and _preferred(other, name)]
        if name in relabelled:
            yield LeftOut(name, "FER2013; FER+ relabels the same images, and copies that disagree would all be dropped")
        elif same:
            yield LeftOut(name, f"FER2013, with as many rows as {same[0]} beside it")
        elif name not in whole and beside:
            yield LeftOut(name, f"a part of FER2013, which is whole in {beside[0]}")
        elif form == ("pixels",):
            yield LeftOut(name, "FER2013's pixels without labels")
        elif name not in whole and not _last(name).lower().startswith("train"):
            yield LeftOut(name, "a table of FER2013's kind that does not say which part it is: no Usage, not train.csv")
        else:
            columns = ", ".join(form)
            yield Source("fer2013", name, f"columns {columns}", whole.get(name) or _count_rows(tree.root / name))


def _preferred(one: str, other: str) -> bool:
    return (_last(one) != "fer2013.csv", one) < (_last(other) != "fer2013.csv", other)


def _rafdb(tree: _Tree) -> Found:
    for name in tree.files:
        if name == rafdb.LIST or name.endswith(f"/{rafdb.LIST}"):
            base = _parent(_parent(name))
            if join(base, "Image/aligned") in tree.folders:
                yield Source("rafdb", base, rafdb.LIST, sum(1 for _ in text_lines(tree.root / name)))
            else:
                yield LeftOut(base, "RAF-DB without its folder Image/aligned")
    for folder in sorted(tree.folders):
        base = _parent(_parent(folder))
        if join(base, "Image/aligned") == folder and join(base, rafdb.LIST) not in tree.files:
            yield LeftOut(base, f"RAF-DB by its folder Image/aligned, but {rafdb.LIST} is not there")

    numbered: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for folder, files in tree.by_folder.items():
        part = _parent(folder)
        if _last(folder).isdecimal() and _last(part) in rafdb.PARTS:
            numbered[_parent(part)][folder] = [name for name in files if has_image_suffix(name)]
    for base, classes in numbered.items():
        outer = _parent(base) if _last(base) == "DATASET" else base
        tables = [table for part in rafdb.PARTS if (table := join(outer, f"{part}_labels.csv")) in tree.headers]
        signs = [f"the table {_last(table)}" for table in tables]
        signs += ["the folder DATASET"] if _last(base) == "DATASET" else []
        signs += ["names such as train_00001_aligned.jpg"] if _any_aligned(classes) else []
        if signs and {_last(folder) for folder in classes} <= rafdb.CODES.keys():
            evidence = f"numbered class folders of train and test, RAF-DB's by {', '.join(signs)}"
            yield Source("rafdb", outer, evidence, sum(map(len, classes.values())))
        else:
            yield LeftOut(outer, "numbered class folders, of which nothing says whose code table they follow")


def _numbered(tree: _Tree) -> Found:
    """Class folders as class001, as AffectNet comes from some hands: whether counted from 0 or 1, nothing tells."""
    bases = {
        _parent(_parent(name)) for name in tree.images if re.fullmatch(r"class_?\d+", _last(_parent(name)).lower())
    }
    for base in sorted(bases):
        yield LeftOut(
            base,
            "class folders by number (class001), and no file says which number is which class: "
            "find out where they come from, and name them train/happy, …",
        )


def _any_aligned(classes: dict[str, list[str]]) -> bool:
    return any(re.search(r"/(train|test)_\d+_aligned\.jpg$", name) for names in classes.values() for name in names)


def _affectnet(tree: _Tree) -> Found:
    for name, header in tree.headers.items():
        if _last(name) != "training.csv" or "subDirectory_filePath" not in header:
            continue
        folder = _parent(name)
        base = _parent(folder) if _last(folder) == affectnet.LISTS[0] else folder
        tables = [join(folder, table) for table in ("training.csv", "validation.csv")]
        if all(set(affectnet.COLUMNS) <= set(tree.headers.get(table, ())) for table in tables):
            count = sum(_count_rows(tree.root / table) for table in tables)
            evidence = "training.csv and validation.csv with face boxes, which are cut out; validation serves as test"
            yield Source("affectnet", base, evidence, count)
        else:
            yield LeftOut(base, f"AffectNet, but {tables[1]} or a column of the tables is missing")


def _affectnet_npy(tree: _Tree) -> Found:
    for folder in sorted(tree.folders):
        if folder != "train_set/annotations" and not folder.endswith("/train_set/annotations"):
            continue
        base = _parent(_parent(folder))
        count = sum(
            name.endswith("_exp.npy")
            for part in affectnet_npy.PARTS
            for name in tree.by_folder.get(join(base, part, "annotations"), ())
        )
        if count:
            yield Source("affectnet_npy", base, "train_set/annotations/*_exp.npy; validation serves as test", count)
        else:
            yield LeftOut(base, "AffectNet by its folder train_set/annotations, but no *_exp.npy is in it")


def _affectnet_yolo(tree: _Tree) -> Found:
    labels: dict[str, int] = defaultdict(int)
    for folder, files in tree.by_folder.items():
        part = _parent(folder)
        if _last(folder) == "labels" and _last(part) in affectnet_yolo.PARTS and join(part, "images") in tree.folders:
            labels[_parent(part)] += sum(name.endswith(".txt") for name in files)
    for base, count in labels.items():
        evidence = "images and labels/*.txt of train, valid, test"
        if join(base, "data.yaml") not in tree.files:
            evidence += "; no data.yaml says whether the classes are AffectNet's, in alphabetical order: check it"
        else:
            try:
                affectnet_yolo.check_names(tree.root / base / "data.yaml")
            except CheckError as error:
                yield LeftOut(base, error.what)
                continue
            evidence += "; data.yaml names the classes in alphabetical order, which is not AffectNet's own"
        yield Source("affectnet_yolo", base, evidence, count)


def _expw(tree: _Tree) -> Found:
    for name in tree.files:
        if _last(name) == "label.lst":
            base = _parent(_parent(name)) if _last(_parent(name)) == "label" else _parent(name)
            if any(join(base, folder) in tree.folders for folder in expw.IMAGES):
                yield Source("expw", base, "label.lst beside origin", sum(1 for _ in text_lines(tree.root / name)))
            else:
                yield LeftOut(base, "ExpW's label.lst without the folder origin: unpack its archive")


def _ckplus(tree: _Tree) -> Found:
    for folder in sorted(tree.folders):
        if _last(folder) == "cohn-kanade-images":
            base = _parent(folder)
            labels = join(base, "Emotion")
            count = sum(name.endswith("_emotion.txt") and _is_below(name, labels) for name in tree.files)
            if count:
                yield Source("ckplus", base, f"cohn-kanade-images, and {count} labels in Emotion", count)
            else:
                yield LeftOut(base, "CK+ without its folder Emotion, which holds the labels")


def _named(tree: _Tree) -> dict[str, str]:
    """The folders in which every image is named as one corpus names its own, each with the adapter."""
    bases: dict[str, str] = {}
    for name in tree.images:
        folder, file = _parent(name), _last(name)
        in_class = class_name(_last(folder)) in EXPRESSIONS
        if kdef.NAME.fullmatch(file.upper()):
            step_up = in_class or re.fullmatch("[AB][FM][0-9]{2}", _last(folder))
            bases[_parent(folder) if step_up else folder] = "kdef"
        elif jaffe.NAME.fullmatch(file):
            bases[_parent(folder) if in_class else folder] = "jaffe"
        elif ckplus48.NAME.fullmatch(file) and in_class:
            bases[_parent(folder)] = "ckplus48"

    def all_named(base: str, adapter: str) -> bool:
        images = tree.images_below(base)
        if adapter == "kdef":
            return all(kdef.NAME.fullmatch(_last(name).upper()) or _last(name) in kdef.MISNAMED for name in images)
        if adapter == "jaffe":
            return all(jaffe.NAME.fullmatch(_last(name)) for name in images)
        return all(
            ckplus48.NAME.fullmatch(_last(name)) and class_name(_last(_parent(name))) in EXPRESSIONS for name in images
        )

    return {base: adapter for base, adapter in sorted(bases.items()) if all_named(base, adapter)}


def _by_name(tree: _Tree) -> Found:
    examples = {"kdef": "AF01ANS.JPG", "jaffe": "KA.AN1.39.tiff", "ckplus48": "S010_004_00000017.png"}
    for base, adapter in _named(tree).items():
        images = tree.images_below(base)
        evidence = f"every image is named as {examples[adapter]} is"
        if any(class_name(_last(_parent(name))) in EXPRESSIONS for name in images):
            evidence += "; `folders` could read it too, but not tell who is shown"
        if adapter == "kdef":
            evidence += "; from straight ahead only, unless `angles` names more"
        yield Source(adapter, base, evidence, len(images))


def _folders(tree: _Tree) -> Found:
    named = _named(tree)
    bases: dict[str, dict[str, int]] = defaultdict(dict)
    for folder, files in tree.by_folder.items():
        images = [name for name in files if has_image_suffix(name)]
        if class_name(_last(folder)) in EXPRESSIONS and images and not any(_is_below(folder, base) for base in named):
            above = _parent(folder)
            bases[_parent(above) if _last(above).lower() in folders.SPLITS else above][folder] = len(images)
    for base, counts in sorted(bases.items()):
        below = tree.images_below(base)
        evidence = "class folders"
        if any(_last(name).startswith(("PublicTest_", "PrivateTest_")) for name in below):
            evidence += "; FER2013 by its names: test joins its PublicTest and PrivateTest"
        strays = Counter(folder for name in below if (folder := _parent(name)) not in counts)
        if strays:
            where = [f"{count} in {folder}" for folder, count in sorted(strays.items())]
            more = f" and in {len(where) - NAMED} more folders" if len(where) > NAMED else ""
            evidence += f"; images outside them, which will be refused: {', '.join(where[:NAMED])}{more}"
        yield Source("folders", base, evidence, sum(counts.values()))


LAYOUTS: tuple[Callable[[_Tree], Found], ...] = (
    _fer, _rafdb, _numbered, _affectnet, _affectnet_npy, _affectnet_yolo, _expw, _ckplus, _by_name, _folders,
)  # fmt: skip


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _is_below(path: str, folder: str) -> bool:
    return folder == "." or path == folder or path.startswith(f"{folder}/")


def _header(file: Path) -> list[str]:
    try:
        return table_header(file)
    except (UnicodeDecodeError, csv.Error):
        return []


def _count_rows(file: Path) -> int:
    with file.open("rb") as handle:
        return sum(1 for line in handle if line.strip()) - 1
