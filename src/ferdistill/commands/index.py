"""`ferdistill index`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .. import workspace
from ..errors import UsageError
from ..files import read_json
from ..plain import json_text, say, shown
from .console import wide

index_cli = typer.Typer(no_args_is_help=True, help="The canonical index: which images, labels and splits there are.")

IndexOption = Annotated[Path | None, typer.Option("--index", help="Index; that of params.yaml if not given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
REASONS = 20  # of a source that are printed: each row that is set aside has its own


@index_cli.command("show")
def show(index_csv: IndexOption = None, as_json: JsonOption = False) -> None:
    """Say what is in an index, and what was left out on the way and why. Examples:

    ferdistill index show

    ferdistill index show --json | jq .left_out
    """
    from .. import params
    from ..data import index

    csv = index_csv or workspace.index_csv(params.load().index_tag)
    read = index.read(csv)
    report = read_json(csv.with_suffix(".report.json"))
    if as_json:
        print(json_text(read.description | report))
        return
    console = wide()
    console.print(Text(shown(str(csv)), "bold"), f" digest {read.digest[:12]}  corpus {read.description['corpus']}")
    counts = read.rows.groupby(["label", "split"]).size().unstack(fill_value=0)
    table = Table("class", *read.splits, "all", title="Images", title_justify="left")
    for name in [*read.description["classes"], *([""] if index.TRANSFER in read.splits else [])]:
        row = [int(counts.loc[name].get(split, 0)) for split in read.splits]
        table.add_row(name or "unlabelled", *map(str, row), str(sum(row)))
    lengths = [read.description["splits"][split]["length"] for split in read.splits]
    table.add_row("all", *map(str, lengths), str(len(read.rows)))
    console.print(table)
    steps = Table("after step", "images", *report["steps"][0]["by_source"], title="Sources", title_justify="left")
    for step in report["steps"]:
        found = [step["by_source"].get(source, 0) for source in report["steps"][0]["by_source"]]
        steps.add_row(step["step"].replace("_", " "), str(step["images"]), *map(str, found))
    console.print(steps)
    left_out = ", ".join(f"{count} {step}" for step, count in report["left_out"].items()) or "none"
    console.print(f"{report['rows_listed']} rows listed; left out: {left_out}")
    for step in ("dropped", "quarantined"):
        for source, reasons in report[step].items():
            for reason, count in list(reasons.items())[:REASONS]:
                console.print(f"  {step} from {source}: {count} {reason}")
            if len(reasons) > REASONS:
                say(f"  {step} from {source}: {len(reasons) - REASONS} reasons more")
    if licences := report.get("licences"):  # not in reports of older indexes
        of = ", ".join(f"{name} {source['licence']}" for name, source in licences["sources"].items())
        say(f"Licences: {of}; the strictest: {licences['strictest']}")
    console.print(
        f"Each class's share of a split is within {report['stratification']['largest_deviation']:.1%} of the split's "
        f"share of all\nEvery row left out: {csv.with_suffix('.left_out.csv')}\n"
        f"Contact sheets: {csv.with_name(csv.stem + '_sheets')}"
    )


@index_cli.command("diff")
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="Index CSV, or git revision.")],
    after: Annotated[str | None, typer.Argument(metavar="[B]", help="Likewise; the workspace's if not given.")] = None,
    index_csv: IndexOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=0, help="Images to name of each kind of change.")] = 10,
) -> None:
    """Say which images came, went, changed label or split between two versions of an index.

    An index is of the corpus as it was when `dvc repro` last made it; `index verify` compares that with the files of
    today. Examples:

    ferdistill index diff HEAD

    ferdistill index diff v1.0 main --json

    ferdistill index diff old/ixNextAffFull.csv data/index/ixNextAffFull.csv
    """
    from .. import params
    from ..data import diff as library

    csv = index_csv or workspace.index_csv(params.load().index_tag)
    changes = library.diff(library.read_rows_at(before, csv), library.read_rows_at(after or str(csv), csv))
    if as_json:
        print(json_text(changes | {"sentence": library.sentence(changes)}))
        return
    print(library.sentence(changes))
    for kind in ("came", "went", "renamed", "relabelled", "moved", "redrawn"):
        for change in changes[kind][:limit]:
            if isinstance(change, str):
                say(f"  {kind} {change}")
            elif "before" in change:
                say(f"  {kind} {change.get('path', '')} {change['before']} → {change['after']}".replace("  ", " "))
            else:
                say(f"  {kind} {change['path']} ({change['label']}, {change['split']})")
        if len(changes[kind]) > limit:
            print(f"  … and {len(changes[kind]) - limit} more {kind}: use --limit or --json")


@index_cli.command("verify")
def verify(
    index_csv: IndexOption = None,
    corpus: Annotated[Path | None, typer.Option("--corpus", help="Corpus directory; that of params.yaml else.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read every file of the corpus again and hold it against the index. Exits with 1 if anything differs. Examples:

    ferdistill index verify

    ferdistill index verify --index data/index/ixNextAffFull.csv --corpus data/raw/mine --json
    """
    from .. import params
    from ..data import index
    from ..data.verify import verify as check

    if not (index_csv and corpus):
        settings = params.load()
        index_csv = index_csv or workspace.index_csv(settings.index_tag)
        corpus = corpus or workspace.corpus(settings.corpus)
    read = index.read(index_csv)
    report = check(read, index_csv, corpus, read.description["classes"])
    if as_json:
        print(json_text(report))
    else:
        for problem in report["problems"]:
            say(
                f"{problem['kind']}: {problem['path']} (index row {problem['row']}): "
                f"expected {problem['expected']}, found {problem['found']}"
            )
        verdict = "all as indexed" if report["ok"] else f"{len(report['problems'])} problems"
        print(f"{report['checked']} images checked: {verdict}")
    if not report["ok"]:
        raise typer.Exit(1)


@index_cli.command("croissant")
def croissant(
    out: Annotated[
        Path | None, typer.Option("--out", help="A JSON in the folder of the index; TAG.croissant.json if not given.")
    ] = None,
    index_csv: IndexOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it, and write nothing.")] = False,
) -> None:
    """Describe an index as Croissant 1.1 with RAI: files, columns, splits, classes, licences, and what is known of it.

    Licences are those that corpus.yaml names of its sources (docs/corpora.md). The images are not in it: they stay
    where `path` says. Examples:

        ferdistill index croissant

        ferdistill index croissant --json | jq '."rai:dataBiases"'
    """
    from .. import params
    from ..data import croissant as library
    from ..data import index
    from ..faces.caution import use_for
    from ..files import write_json

    settings = params.load()
    csv = index_csv or workspace.index_csv(settings.index_tag)
    out = out or csv.with_suffix(".croissant.json")
    if out.parent.resolve() != csv.parent.resolve():
        raise UsageError("it names the index by its file's name", where=str(out), expected=f"a file in {csv.parent}")
    read = index.read(csv)
    report = read_json(csv.with_suffix(".report.json"), "licences", hint="run `dvc repro index`")
    found = library.describe(read, csv, report, settings.task, use_for(settings.task))
    if as_json:
        print(json_text(found))
        return
    write_json(out, found)
    say(f"{out}: {len(read.rows)} images; the strictest licence: {report['licences']['strictest']}")


@index_cli.command("seed")
def seed(
    index_csv: IndexOption = None,
    tries: Annotated[int, typer.Option(min=1, help="Seeds to try, from 0.")] = 500,
    as_json: JsonOption = False,
) -> None:
    """Find a seed for `index.seed` under which every class is shared out alike.

    Groups go to splits by a digest of their name and the seed, so that images that come later move no old one. How
    well that stratifies the classes depends on the seed: choose it once, before the first training. Where params.yaml's
    corpus has no index yet, the corpus itself is read. Example:

        ferdistill index seed --tries 2000
    """
    from .. import params
    from ..data import index
    from ..data.build import build, choose_seed, stratification
    from ..data.memo import memo

    settings = params.load()
    csv = index_csv or workspace.index_csv(settings.index_tag)
    read = index.read(csv) if index_csv or csv.is_file() else None
    if read and (index_csv or read.description["corpus"] == settings.corpus):
        rows = read.rows
    else:
        with memo(workspace.memo()) as known:
            rows = build(workspace.corpus(settings.corpus), settings.classes, settings.index, memo=known).rows
    now = stratification(rows, settings.index)["largest_deviation"]
    best, deviation, absent = choose_seed(rows, settings.index, tries)
    if as_json:
        found = {"seed": best, "deviation": deviation, "absent": absent}
        print(json.dumps(found | {"present_seed": settings.index.seed, "present": now}))
        return
    if absent:
        print(f"none of {tries} seeds puts every class into every split: try more, or raise index.val and index.calib")
    print(f"seed {best}: each class's share of a split within {deviation:.2%} of the split's share of all images")
    print(f"seed {settings.index.seed}, of params.yaml: {now:.2%}")
