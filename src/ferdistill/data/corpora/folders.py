"""Class folders: `train/cat/x.png`, `test/dog/y.png`, or `cat/z.png` where there is no official split."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...errors import CheckError
from .. import sources
from ..labels import Labels
from ..layouts import Found, Layout, Tree, is_below, last, parent
from ..sources import NOT_AN_IMAGE, SUFFIXES, Dropped, Options, Record, Row, has_image_suffix, part_of

PRECEDENCE = 100


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every file, in the order of its path.

    What a desktop leaves behind is dropped as "not an image", and so is a file beside the class folders that is none
    by its name: a licence, a table. In a class folder such a file is an error, since it may be an image that cannot
    be read. Images in a folder that is no class are dropped by its name.
    """

    def row(name: str) -> Row:
        image = sources.join(path, name)
        *above, folder = name.split("/")[:-1] or [""]
        part = part_of(above[0]) if above else None
        is_class = labels.class_of(folder) is not None
        fits = bool(folder) and (not above or (len(above) == 1 and part is not None))
        fits = fits and (is_class or part_of(folder) is None)
        if sources.is_clutter(name) or (not (fits and is_class) and not has_image_suffix(name)):
            return Dropped(image, NOT_AN_IMAGE)
        if not fits:
            raise CheckError(
                "a file outside the class folders",
                where=str(root / image),
                expected=f"[train|val|test]/CLASS/FILE with CLASS one of {', '.join(labels.classes)}",
                hint="move the file into its class folder, or out of the corpus",
            )
        if not has_image_suffix(name):
            raise sources.wrong("not an image by its name", str(root / image), ", ".join(sorted(SUFFIXES)))
        return labels.row(Record(image, folder, part, image=image), str(root / image))

    return sources.parsed(sources.file_names(root / path), row)


def recognise(tree: Tree) -> Found:
    """Folders of images that are classes, or, where nothing else was found, at least two beside each other."""
    read_whole = [item.path for item in tree.found if isinstance(item, Layout) and item.whole]
    bases: dict[str, list[str]] = defaultdict(list)
    for folder, files in tree.by_folder.items():
        is_class = tree.labels.class_of(last(folder)) is not None
        named = folder != "." and (is_class or part_of(last(folder)) is None)
        if named and any(map(has_image_suffix, files)) and not any(is_below(folder, base) for base in read_whole):
            above = parent(folder)
            bases[parent(above) if part_of(last(above)) else above].append(folder)
    for base, inside in sorted(bases.items()):
        names = set(map(last, inside))
        if not any(map(tree.labels.class_of, names)):
            others = [item.path for item in tree.found if is_below(base, item.path) or is_below(item.path, base)]
            if len(names) < 2 or others:
                continue
        evidence = "class folders"
        mixed = {
            prefix
            for name in tree.images_below(base)
            if part_of(prefix := last(name).partition("_")[0]) not in (None, part_of(last(parent(parent(name)))))
        }
        if mixed:
            evidence += f"; by their names, images of {', '.join(sorted(mixed))} lie in another part"
        yield Layout(base, evidence, whole=True)
