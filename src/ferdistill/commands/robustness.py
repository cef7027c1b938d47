"""`ferdistill robustness`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import workspace
from ..errors import UsageError
from ..plain import json_text, say
from .console import wide

STUDENT = "student"
HEADS = {"macro_f1": "macro F1", "nll": "NLL", "ece": "ECE", "answered": "answered", "errors": "errors among these"}


def robustness(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Teachers, or `student`; all if none is named.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Draw every step as a PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every step of it, instead of a table.")] = False,
) -> None:
    """Score student and teachers on the test split under corruptions in five steps, as ImageNet-C does.

    Blur, noise, JPEG, darkness, occlusion and low resolution, alike for all networks. Each has the temperature and the
    threshold of abstention that its own answers on calib give. The table shows means over the steps. The stage
    `robustness` does that of the student alone. Teachers without a network, soft labels alone, are named and left out.
    It takes about as long as thirty evaluations of each network. Examples:

        ferdistill robustness

        ferdistill robustness student resnet18 --out robustness.png

        ferdistill robustness --json
    """
    from .. import params
    from ..data import images, index
    from ..distill import frozen
    from ..distill import robustness as library
    from ..evaluation import corruptions, plots
    from ..softlabels import brought

    settings = params.load()
    known = [STUDENT, *settings.teachers]
    if unknown := set(networks or []) - set(known):
        raise UsageError(f"no network `{min(unknown)}`", expected=f"one of {', '.join(known)}")
    rows = index.read(workspace.index_csv(settings.index_tag))
    packed = images.load(workspace.images(settings.index_tag), rows)
    tables = {}
    for name in networks or known:
        directory = workspace.STUDENT if name == STUDENT else workspace.teacher(name)
        if (directory / brought.TENSORS).is_file():
            say(f"{name} is soft labels alone, and has no network to ask", err=True)
            continue
        network, config = frozen.load_teacher(directory)
        library.require_ours(config, directory, rows, settings.classes)
        how = library.deployed(network, rows, packed, settings)
        tables[name] = library.measure(network, rows, packed, settings.classes, how, name)
    if out is not None and tables:
        plots.robustness(out, tables)
    found = {name: corruptions.summary(table) for name, table in tables.items()}
    if as_json:
        steps = {name: {"steps": table.astype(object).where(table.notna(), None).to_dict("records")}
                 for name, table in tables.items()}  # fmt: skip
        print(json_text({name: found[name] | steps[name] for name in found}))
    else:
        _print(found)


def _print(found: dict[str, dict[str, Any]]) -> None:
    table = Table("network", "corruption", *HEADS.values(), title="Means over five steps", title_justify="left")
    for name, of in found.items():
        lines = {"none": of["clean"], **of["corruptions"], "all": of["mean"]}
        for place, (corruption, scores) in enumerate(lines.items()):
            shown = ["no answers" if scores[key] is None else f"{scores[key]:.3f}" for key in HEADS]
            table.add_row("" if place else name, corruption.replace("_", " "), *shown)
        table.add_section()
    wide().print(table)
