"""A corpus directory, read through its `corpus.yaml` and the adapters it names."""

import csv
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..errors import CheckError, UsageError
from ..params import explain
from . import sources
from .sources import Record


def _stays_inside(path: str) -> str:
    if not path or path.startswith("/") or ".." in path.split("/") or "\\" in path or ":" in path:
        raise ValueError(f"a POSIX path below the corpus directory, without `..`; found {path!r}")
    return path


SafePath = Annotated[str, AfterValidator(_stays_inside)]


class SourceDescription(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    adapter: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    path: SafePath


class CorpusDescription(BaseModel):
    """`corpus.yaml`: the sources, in order of precedence, and an optional `path,subject` table."""

    model_config = ConfigDict(extra="forbid")

    sources: Annotated[list[SourceDescription], Field(min_length=1)]
    subjects: SafePath | None = None


def describe(corpus_dir: Path) -> CorpusDescription:
    """Read and check `corpus.yaml`.

    Raises
    ------
    UsageError
        If the corpus or its description is missing or malformed.
    """
    file = corpus_dir / "corpus.yaml"
    if not corpus_dir.is_dir():
        raise UsageError(
            f"no corpus `{corpus_dir.name}`",
            where=str(corpus_dir),
            expected="a directory with a corpus.yaml",
            hint="put the corpus there, or choose another with the parameter `corpus`",
        )
    try:
        description = CorpusDescription.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(
            "a corpus has no description",
            where=str(file),
            expected="a list of sources: name, adapter, path",
            hint=f"write one; adapters: {', '.join(adapter_names())}",
        ) from None
    except ValidationError as error:
        raise UsageError(
            "corpus.yaml does not fit:\n" + explain(error, CorpusDescription),
            where=str(file),
            expected="sources, each with name, adapter and path (counted from 0 above), and perhaps subjects",
            hint="correct it; adapters: " + ", ".join(adapter_names()),
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid YAML: {error}", where=str(file)) from None
    for source in description.sources:
        if source.adapter not in adapter_names():
            raise UsageError(
                f"unknown adapter `{source.adapter}`", where=str(file), expected=", ".join(adapter_names())
            )
        if not (corpus_dir / source.path).exists():
            raise UsageError(f"source `{source.name}` is not there", where=str(corpus_dir / source.path))
    return description


def adapter_names() -> list[str]:
    """The modules under `corpus/sources`."""
    return sorted(file.stem for file in Path(str(sources.__file__)).parent.glob("[a-z]*.py"))


def read_corpus(corpus_dir: Path, classes: list[str]) -> Iterator[tuple[str, Record]]:
    """Yield (source name, record) for every labelled face, source by source.

    Raises
    ------
    UsageError, CheckError
        On a description, row or image that cannot be read, or a source with no row.
    """
    for source in describe(corpus_dir).sources:
        adapter = importlib.import_module(f"{sources.__name__}.{source.adapter}")
        try:
            found = False
            for record in adapter.read(corpus_dir, source.path, classes):
                found = True
                yield source.name, record
        except OSError as error:
            raise CheckError(
                f"source `{source.name}` has not the {source.adapter} layout: {error.strerror}",
                where=str(error.filename),
                hint="see the layouts in README.md; correct `path` or `adapter` in corpus.yaml",
            ) from None
        except (csv.Error, UnicodeDecodeError) as error:
            raise CheckError(f"source `{source.name}` cannot be read: {error}", where=source.path) from None
        if not found:
            raise CheckError(
                f"source `{source.name}` is empty",
                where=str(corpus_dir / source.path),
                expected="at least one labelled face",
                hint="put the images in, or take the source out of corpus.yaml",
            )


def read_subjects(corpus_dir: Path) -> dict[str, str]:
    """Path -> subject, from the table that `corpus.yaml` names; empty where it names none."""
    table = describe(corpus_dir).subjects
    if table is None:
        return {}
    file = corpus_dir / table
    if not file.is_file():
        raise UsageError("the table of subjects is missing", where=str(file), expected="columns path, subject")
    with file.open(newline="", encoding="utf-8-sig") as handle:
        rows = csv.DictReader(handle)
        if rows.fieldnames is None or not {"path", "subject"} <= set(rows.fieldnames):
            raise CheckError("not a table of subjects", where=str(file), expected="columns path, subject")
        subjects: dict[str, str] = {}
        for row, fields in enumerate(rows):
            if fields["path"] in subjects:
                raise CheckError(
                    f"a path has two rows: {fields['path']}",
                    where=f"{file}, data row {row}",
                    expected="one row a path",
                )
            subjects[fields["path"]] = fields["subject"]
    return subjects
