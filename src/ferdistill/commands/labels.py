"""`ferdistill labels`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from .. import workspace
from ..errors import UsageError
from ..plain import cell, json_text, say
from .console import wide

if TYPE_CHECKING:
    import numpy as np

    from ..data.index import Index
    from ..params import Params

labels_cli = typer.Typer(no_args_is_help=True, help="Labels that teachers contradict which have not seen them.")
SHOWN, COLUMNS = 100, 10  # pictures


@labels_cli.command("cross-fit")
def cross_fit(
    teachers: Annotated[
        list[str] | None, typer.Argument(metavar="[TEACHER]...", help="Those that are trained; all if none is named.")
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, max=20, help="By person; each is trained on the others.")] = 5,
    out: Annotated[Path, typer.Option("--out", help="Directory for TEACHER.parquet.")] = workspace.CROSS_FIT,
) -> None:
    """Train teachers in folds of train by person, so that they answer for images that they have not seen.

    Takes about as many trainings of each teacher as there are folds, and goes on from the last epoch if it is stopped.
    Writes soft labels of train: for `labels suspect`, and, with --out pretrained, as a teacher that has not learnt its
    answers by heart (docs/labels.md). Examples:

        ferdistill labels cross-fit --folds 3

        ferdistill labels cross-fit resnet18 vit_ban --out pretrained
    """
    from .. import params
    from ..data import images, index
    from ..distill import cross_fit as library
    from ..distill import weights
    from ..softlabels import out_of_fold

    settings = params.load()
    trained = {
        name: recipe
        for name, recipe in settings.scale_.teachers.items()
        if name in (teachers or settings.teachers) and isinstance(recipe, params.TeacherParams)
    }
    if not trained or set(teachers or []) - set(trained):
        raise UsageError(
            f"no teacher that is trained here: {', '.join(teachers or settings.teachers)}",
            where=f"params.yaml, scales.{settings.scale}.teachers",
            expected="recipes with phases",
        )
    rows = index.read(workspace.index_csv(settings.index_tag))
    packed = images.load(workspace.images(settings.index_tag), rows)
    for name, recipe in trained.items():
        start = {"weights": weights.facts(recipe, f"scales.{settings.scale}, {name}")}
        plots = workspace.SCRATCH / "cross_fit" / name
        logits = library.cross_fit(settings, name, recipe, rows, packed, folds=folds, start=start, plots=plots)
        told = rows.rows.iloc[rows.positions("train")][["path", "split", "label"]].reset_index(drop=True)
        out_of_fold.write(out / f"{name}.parquet", told, logits, settings.classes)
        say(f"{out / f'{name}.parquet'}: {len(told)} images of train, each answered by a network that has not seen it")


@labels_cli.command("suspect")
def suspect(
    beside: Annotated[Path, typer.Option("--from", help="Where `labels cross-fit` wrote.")] = workspace.CROSS_FIT,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the whole ranking as a CSV, and the first hundred as a PNG.")
    ] = None,
    corrections: Annotated[
        Path | None, typer.Option("--corrections", help="Write a table to fill in, for corpus.yaml's `corrections`.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who confirms them; needed with --corrections.")] = None,
    first: Annotated[
        int, typer.Option("--first", min=1, help="Labels that are listed, and written to be confirmed.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Rank the labels of train by how little teachers believe them that have not learnt from them.

    In the order of the odds of the label against the likeliest other class. `error` says what confident learning takes
    for one.
    Nothing is changed: --corrections writes rows with the suggested label that a person confirms, corrects or takes
    out, and which the index reads once corpus.yaml names the table. Examples:

        ferdistill labels suspect

        ferdistill labels suspect --out suspects.csv --first 100

        ferdistill labels suspect --corrections data/raw/mine/corrections.csv --by M.K.
    """
    from .. import params
    from ..data import index, sheets
    from ..data.reader import records_by_path
    from ..evaluation import label_errors
    from ..files import write_text

    if (corrections is None) != (by is None):
        raise UsageError("a table of corrections says who confirms them", where="--corrections, --by", expected="both")
    if corrections is not None and corrections.exists():
        raise UsageError("the table is there already", where=str(corrections), hint="name another file")
    if out is not None and out.suffix != ".csv":
        raise UsageError("the ranking is a CSV", where=str(out), expected="a name that ends in .csv")
    settings = params.load()
    rows = index.read(workspace.index_csv(settings.index_tag))
    train = rows.positions("train")
    names, probabilities = _answers(beside, settings, rows)
    told = rows.rows.iloc[train][["path", "label", "split", "subject"]]
    table = label_errors.ranked(told, probabilities, rows.codes(settings.classes)[train], settings.classes)
    report = {"images": len(table), "teachers": names, "errors": int(table["confident"].sum())}
    head = table.head(first)
    if out is not None:
        write_text(out, table.map(cell).to_csv(index=False, lineterminator="\n"))
        corpus = workspace.corpus(settings.corpus)
        shown = [(str(r.path), f"{r.label}: {r.suggested}?") for r in table.head(SHOWN).itertuples()]
        lines = [("label: what teachers say", shown[at : at + COLUMNS]) for at in range(0, len(shown), COLUMNS)]
        records = records_by_path(corpus, settings.classes)
        sheets.draw(out.with_suffix(".png"), lines, COLUMNS, corpus, records, len(lines))
    if corrections is not None:
        found = head.assign(by=by, was=head["label"], label=head["suggested"])
        found = found[found["was"] != found["label"]][["path", "was", "label", "by"]]
        write_text(corrections, found.to_csv(index=False, lineterminator="\n"))
        say(
            f"{corrections}: {len(found)} rows to confirm, correct or take out; an empty label leaves the image out",
            err=True,
        )
    if as_json:
        print(json_text(report | {"first": head.to_dict("records")}))
    else:
        _print(head, report)


def _answers(beside: Path, settings: "Params", rows: "Index") -> "tuple[list[str], np.ndarray]":
    """The teachers whose answers lie there, and the mean of their probabilities for train, (n, K)."""
    import numpy as np
    from scipy.special import softmax

    from ..softlabels import out_of_fold

    files = sorted(beside.glob("*.parquet"))
    if not files:
        raise UsageError(
            "no answers of teachers to images that they have not seen",
            where=str(beside),
            expected="TEACHER.parquet, as `ferdistill labels cross-fit` writes it",
            hint="run `ferdistill labels cross-fit`",
        )
    told = rows.rows.iloc[rows.positions("train")]
    found = [out_of_fold.read(file, told, settings.classes) for file in files]
    return [file.stem for file in files], np.mean([softmax(logits, axis=1) for logits in found], axis=0)


def _print(head: Any, report: dict[str, Any]) -> None:
    title = f"{report['errors']} of {report['images']} labels taken for errors, by {', '.join(report['teachers'])}"
    table = Table("image", "label", "suggested", "margin", "error", title=title, title_justify="left")
    for row in head.itertuples():
        table.add_row(row.path, row.label, row.suggested, f"{row.margin:+.3f}", "yes" if row.confident else "")
    wide().print(table)
