"""What lies in a corpus directory, and the corpus.yaml that says so. No image is decoded."""

import importlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckError, FerdistillError, UsageError
from .description import SourceDescription, adapters, stays_inside
from .labels import Labels, in_yaml
from .layouts import Layout, LeftOut, Tree, is_below
from .reader import labels_of, refuse_exits, source_rows, synonyms
from .sources import Record

SUBJECTS = "subjects.csv"


@dataclass(frozen=True)
class Surveyed:
    """A source that can be read: what corpus.yaml says of it, how many labelled images it has, and the evidence."""

    description: SourceDescription
    images: int
    evidence: str


@dataclass(frozen=True)
class Survey:
    """What lies in a corpus directory."""

    sources: tuple[Surveyed, ...]  # in order of precedence, the better curated first
    left_out: tuple[LeftOut, ...]  # in order of their paths
    unrecognised: tuple[str, ...]  # entries of the directory itself in which nothing was recognised
    subjects: str | None  # the table of subjects, if there is one
    classes: tuple[str, ...]  # what labels were read as


def survey(corpus_dir: Path, classes: list[str]) -> Survey:
    """Recognise layouts in a directory, however deep they lie, and read their labels as these classes.

    Raises
    ------
    UsageError
        If there is no such directory.
    CheckError
        If it holds a link to a folder or out of it, or a file name that is not text.
    """
    if not corpus_dir.is_dir():
        raise UsageError("no such corpus directory", where=str(corpus_dir), hint="name the folder of the corpus")
    refuse_exits(corpus_dir)
    tree = Tree(corpus_dir, Labels(classes, {}, {}, synonyms()))
    subjects = SUBJECTS if {"path", "subject"} <= set(tree.headers.get(SUBJECTS, ())) else None
    modules = [(name, importlib.import_module(module)) for name, module in adapters().items()]
    recognising = [(name, module) for name, module in modules if hasattr(module, "recognise")]
    layouts: list[tuple[str, Layout]] = []
    for name, module in sorted(recognising, key=lambda item: item[1].PRECEDENCE):
        found = sorted(module.recognise(tree), key=lambda item: item.path)
        tree.found += found
        layouts += [(name, item) for item in found if isinstance(item, Layout)]

    left_out = {item for item in tree.found if isinstance(item, LeftOut)}
    sources: list[Surveyed] = []
    listed_by: dict[str, str] = {}  # the source of each image
    for adapter, layout in layouts:
        try:
            _check_place(layout, layouts, tree)
            number = sum(source.description.adapter == adapter for source in sources) + 1
            name = adapter if number == 1 else f"{adapter}-{number}"
            source = SourceDescription(name=name, adapter=adapter, path=layout.path, options=layout.options)
            sources.append(_read(corpus_dir, source, layout, classes, subjects, listed_by))
        except FerdistillError as error:
            left_out.add(LeftOut(layout.path, f"{adapter}, " + "; ".join(filter(None, [error.what, error.hint]))))

    places = [item.path for item in tree.found] + sorted({path.partition("/")[0] for path in listed_by})
    entries = sorted({name.partition("/")[0] for name in tree.files} - {"corpus.yaml", SUBJECTS})
    unrecognised = [name for name in entries if not any(place == "." or is_below(place, name) for place in places)]
    ordered = sorted(left_out, key=lambda item: (item.path, item.reason))
    return Survey(tuple(sources), tuple(ordered), tuple(unrecognised), subjects, tuple(classes))


def _check_place(layout: Layout, layouts: list[tuple[str, Layout]], tree: Tree) -> None:
    if not all(stays_inside(path) for path in (layout.path, *map(str, layout.options.values()))):
        raise CheckError("in a path with a colon or backslash: rename its folder")
    inner = [
        f"{adapter} in {other.path}"
        for adapter, other in layouts
        if other is not layout and other.path not in tree.files and is_below(other.path, layout.path)
    ]
    if layout.whole and inner:
        raise CheckError(f"whose folder also holds {inner[0]}: move its own folders into one of their own")


def _read(
    root: Path,
    source: SourceDescription,
    layout: Layout,
    classes: list[str],
    subjects: str | None,
    listed_by: dict[str, str],
) -> Surveyed:
    """What a layout holds, with the map of its labels where they do not speak for themselves."""
    labels = labels_of(source, classes)
    paths: list[str] = []
    errors: list[CheckError] = []
    for row in source_rows(root, source, labels, (subjects,)):
        if isinstance(row, Record):
            paths.append(row.path)
        elif isinstance(row, CheckError):
            errors.append(row)
    known = _map(labels, layout)
    if known and not source.classes:
        return _read(root, source.model_copy(update={"classes": known}), layout, classes, subjects, listed_by)

    strange = labels.without_class()
    if strange and not paths:
        mapped = source.model_copy(update={"classes": dict.fromkeys(strange, "CLASS")})
        raise CheckError(
            f"none of whose labels is a class: {labels.listed(strange)}",
            hint=f"name these in `classes` of params.yaml, or write which class each is: {entry(mapped)}",
        )
    if errors and not paths:
        raise CheckError(f"without an image that has a label: {errors[0].what}")
    if not paths:
        raise CheckError("without a labelled image")
    others = sorted({listed_by[path] for path in paths if path in listed_by})
    if others:
        raise CheckError(f"whose images {others[0]} lists too")
    listed_by |= dict.fromkeys(paths, source.name)
    evidence = layout.evidence
    if layout.positions and list(source.classes.values()) == classes:
        evidence += "; codes are taken for positions in `classes` of params.yaml: check it"
    if strange:
        evidence += f"; left out, being no class: {labels.listed(strange)}"
    if errors:
        evidence += f"; {len(errors)} rows will be refused, the first: {errors[0].what}, {errors[0].where}"
    return Surveyed(source, len(paths), evidence)


def _map(labels: Labels, layout: Layout) -> dict[str, str]:
    """The labels whose class has another name, where that is no guess: by case or synonym, by number, by position."""
    strange = labels.without_class()
    numbers = {int(name): name for name in labels.classes if name.isdecimal()}
    if len(strange) == len(labels.counts):
        if all(label.isdecimal() and int(label) in numbers for label in strange):
            return {label: numbers[int(label)] for label in strange}
        if layout.positions and strange == [str(code) for code in range(len(labels.classes))]:
            return dict(zip(strange, labels.classes, strict=True))
    found = {label: labels.class_of(label) for label in sorted(labels.counts)}
    return {label: name for label, name in found.items() if name and labels.codes.get(label, label) != name}


def to_yaml(found: Survey) -> str:
    """A corpus.yaml of what was recognised, with the evidence and what is left out as comments.

    Raises
    ------
    CheckError
        If nothing was recognised.
    """
    if not found.sources:
        seen = [*(f"{item.path}: {item.reason}" for item in found.left_out), *found.unrecognised]
        raise CheckError(
            "no corpus layout is recognised here",
            where=", ".join(seen) or "an empty directory",
            expected=f"a layout of one of {', '.join(adapters())}",
            hint="see the layouts in docs/corpora.md; class folders always do: train|val|test/CLASS/FILE, CLASS one of "
            + ", ".join(found.classes),
        )
    lines = ["sources:  # in order of precedence: where images are duplicated, the source named first keeps its own"]
    for source in found.sources:
        lines += [_comment(f"  # {source.images:,} images: {source.evidence}"), f"  {entry(source.description)}"]
    if found.subjects:
        lines.append(f"subjects: {found.subjects}")
    lines += [_comment(f"# left out: {item.path}: {item.reason}") for item in found.left_out]
    lines += [_comment(f"# not recognised: {name}") for name in found.unrecognised]
    return "\n".join(lines) + "\n"


def entry(source: SourceDescription) -> str:
    """The line of a source in corpus.yaml."""
    return f"- {in_yaml(source.model_dump(exclude_defaults=True))}"


def _comment(text: str) -> str:
    """Labels and messages may hold what would end a comment."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
