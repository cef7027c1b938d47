"""`corpus.yaml`: which sources a corpus has, and what their labels are called in params.yaml."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .. import yaml_file
from ..errors import UsageError
from ..files import UNWRITABLE
from ..params import ClassName, explain
from . import licences


def stays_inside(name: str) -> bool:
    """Whether a path is POSIX, relative and without `..`, of names that a system and a table can hold."""
    parts = name.split("/")
    outside = not name or name.startswith("/") or ".." in parts or "\\" in name or ":" in name
    return not (outside or UNWRITABLE.search(name) or len(name) > 1000 or max(map(len, parts)) > 255)


def _check_inside(path: str) -> str:
    if not stays_inside(path):
        raise ValueError(f"a POSIX path below the corpus directory, without `..`; found {path[:200]!r}")
    return path


# A path in corpus.yaml, relative to the corpus directory.
SafePath = Annotated[str, AfterValidator(_check_inside)]


def _code(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"YAML reads this as {value!r}, which is neither text nor a whole number: put it in quotes")
    return value


class SourceDescription(BaseModel):
    """A source. `classes` says of labels, codes or names as the source has them, which class of params.yaml each is.

    `licence` is an SPDX identifier, or LicenseRef-NAME; `url` says where the source or its terms are.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    adapter: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    path: SafePath
    options: dict[str, Any] = {}
    classes: dict[Annotated[str, BeforeValidator(_code)], ClassName] = {}
    licence: Annotated[str, AfterValidator(licences.checked)] | None = None
    url: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=1000)] | None = None


class CorpusDescription(BaseModel):
    """The sources, in order of precedence, and optional tables.

    These are `path,subject`; `path` with annotators' votes; `path,attribute,value`; and `path,was,label,by`.
    """

    model_config = ConfigDict(extra="forbid")

    sources: Annotated[list[SourceDescription], Field(min_length=1)]
    subjects: SafePath | None = None
    votes: SafePath | None = None
    attributes: SafePath | None = None
    corrections: SafePath | None = None


def told_licences(corpus_dir: Path) -> dict[str, Any]:
    """What `licences.told` says of a corpus; raises as `read_description`."""
    sources = read_description(corpus_dir).sources
    return licences.told({source.name: (source.licence, source.url) for source in sources})


def read_description(corpus_dir: Path, classes: list[str] | None = None) -> CorpusDescription:
    """Read and check `corpus.yaml`; against the classes of params.yaml too, if given.

    Raises
    ------
    UsageError
        If the corpus or its description is missing or malformed.
    """
    file = corpus_dir / "corpus.yaml"
    if not corpus_dir.is_dir():
        beside = sorted(path.parent.name for path in corpus_dir.parent.glob("*/corpus.yaml"))
        raise UsageError(
            f"no corpus `{corpus_dir.name}`",
            where=str(corpus_dir),
            expected="a directory with a corpus.yaml" + (f", as {', '.join(beside)}" if beside else ""),
            hint="put the corpus there, or choose another with the parameter `corpus`; "
            f"in a queued run: commit params.yaml and {corpus_dir}.dvc first (docs/corpora.md)",
        )
    try:
        description = CorpusDescription.model_validate(yaml_file.read(file))
    except FileNotFoundError:
        raise UsageError(
            "a corpus has no description",
            where=str(file),
            expected="a list of sources: name, adapter, path",
            hint=f"`ferdistill corpus describe {corpus_dir} --write` recognises many layouts and writes it",
        ) from None
    except ValidationError as error:
        raise UsageError(
            "corpus.yaml does not fit:\n" + explain(error, CorpusDescription),
            where=str(file),
            expected="sources, each with name, adapter and path (counted from 0 above), and perhaps subjects",
            hint="correct it; adapters: " + ", ".join(adapters()),
        ) from None
    for source in description.sources:
        if source.adapter not in adapters():
            raise UsageError(f"unknown adapter `{source.adapter}`", where=str(file), expected=", ".join(adapters()))
        if not (corpus_dir / source.path).exists():
            raise UsageError(f"source `{source.name}` is not there", where=str(corpus_dir / source.path))
        strange = [name for name in source.classes.values() if classes is not None and name not in classes]
        if strange:
            raise UsageError(
                f"source `{source.name}` has labels for `{strange[0]}`, which is no class",
                where=f"{file}, classes",
                expected=", ".join(classes or []),
                hint="correct the name there, or `classes` in params.yaml",
            )
    return description


def adapters() -> dict[str, str]:
    """The module of each adapter by its name: every file in a folder `corpora` of this package."""
    root = Path(__file__).parents[1]
    found = sorted(root.glob("*/corpora/[a-z]*.py"), key=lambda file: file.stem)
    return {file.stem: ".".join([root.name, *file.relative_to(root).with_suffix("").parts]) for file in found}
