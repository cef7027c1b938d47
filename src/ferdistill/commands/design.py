"""`ferdistill study primary`, `mixture` and `surface`: what a study is designed for, and what that shows."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from .. import workspace
from ..errors import UsageError
from ..files import atomic
from ..plain import json_text, say
from .console import wide
from .study import As_json, Results, digits, table_of


def primary(
    grid: Annotated[Path, typer.Option("--grid", help="The study, which names the contrasts.")] = workspace.STUDY_GRID,
    table: Results = None,
    as_json: As_json = False,
) -> None:
    """Answer what the study was run for: the contrasts that its grid names under `primary`, over seeds and people.

    A model with crossed random effects of seed and person, whose variances are found by moments, those of people by
    bootstrap; Holm's adjustment over all contrasts. It needs the predictions of the runs; without them seeds alone
    count, and that is said. Then the headroom: what the true distribution as the teacher, and annotators' votes, bring
    over labels alone, and whether that is enough to rank families by. Examples:

        ferdistill study primary

        ferdistill study primary --grid my_study.yaml --results runs.csv --json
    """
    from .. import params
    from ..study import contrasts as library
    from ..study import results
    from ..study.grid import read

    settings, design = params.load(), read(grid)
    if design.primary is None:
        raise UsageError("the grid names no contrast", where=str(grid), expected="`primary`, as in conf/study.yaml")
    frame = results.read(table_of(table))
    found = library.primary(frame, design.primary, settings)
    since = library.stated(grid, design.primary)
    before = library.was_stated_before(since, frame)
    rooms = [library.headroom(frame, design.standing, settings, metric) for metric in design.primary.metrics]
    if as_json:
        print(json_text({"contrasts": found, "stated": since, "stated_before_runs": before, "headroom": rooms}))
        return
    _print_contrasts({f"{one['candidate']} - {one['baseline']}: {one['metric']}": one for one in found})
    told: dict[bool | None, str] = {
        True: "before the first run",
        False: "after the first run, so it is exploratory too",
    }
    say(f"Named since {since or 'no commit'}, {told.get(before, 'and whether before the first run is not known')}.")
    for why in dict.fromkeys(one["why"] for one in found if one["why"]):
        say(f"Over seeds alone: {why}.")
    for room in rooms:
        rows = {key: room[key] for key in ("oracle", "votes") if room[key]} | room["families"]
        _print_contrasts({f"{name} - none: {room['metric']}": one for name, one in rows.items()})
        verdict = {True: "Families can be ranked", False: "Families are not ranked", None: "Headroom not known"}
        say(f"{verdict[room['ranked']]}: {room['why']}.")


def _print_contrasts(rows: dict[str, dict[str, Any]]) -> None:
    heads = ["seeds", "difference", "95 % interval", "p", "p Holm", "of seeds", "of people"]
    shown = Table(Column("contrast", overflow="fold"), *heads)
    for name, one in rows.items():
        numbers = [digits(one[key], "+.4f") for key in ("difference", "interval")]
        p_values = [digits(one.get(key), ".2g") for key in ("p", "p_holm")]
        shown.add_row(
            name, str(one["seeds"]), *numbers, *p_values, *(digits(one[k]) for k in ("of_seeds", "of_people"))
        )
    if rows:
        wide().print(shown)


def mixture(
    teachers: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEACHER]...", help="Two or more; all of params.yaml if none is named."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Grid to write, with --write.", show_default=workspace.MIXTURE_GRID.as_posix()),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, help="Seed of each run; may be given again.", show_default=False),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the grid, and its families into params.yaml.")] = False,
    as_json: As_json = False,
) -> None:
    """List the runs of a mixture design over the teachers' weights; with --write, make them families and a grid.

    Each teacher alone, each pair in equal parts, all of them, and points of the interior: what a quadratic surface over
    the simplex needs, and what tests whether it is enough. Families of params.yaml at these points are used as they
    are. Examples:

        ferdistill study mixture

        ferdistill study mixture resnet18 efficientnet_b3 vit_ban --seed 1 --seed 2 --seed 3 --write

        ferdistill study run --grid conf/mixture.yaml
    """
    from .. import params
    from ..study import mixture as library

    if out and not write:
        raise UsageError("--out names the grid that --write writes", where="--out", hint="add --write, or leave it out")
    out = out or workspace.MIXTURE_GRID
    settings = params.load()
    # Votes and what else has no network are rows to compare with, and no corners, unless they are named.
    named = teachers or [
        name for name in settings.teachers if not isinstance(settings.scale_.teachers[name], params.TableTeacher)
    ]
    blends = library.design(settings, named)
    if write:
        library.write_grid(out, blends, seeds or [settings.seed])
        library.write_families(workspace.PARAMS, blends)
    if as_json:
        rows = [blend._asdict() | {"weights": {k: float(v) for k, v in blend.weights.items()}} for blend in blends]
        print(json_text({"runs": rows, "seeds": seeds or [settings.seed], "out": out.as_posix() if write else None}))
        return
    shown = Table("point", "family", *named)
    for blend in blends:
        family = blend.family + (" (new)" if blend.new else "")
        shown.add_row(blend.kind, family, *(str(blend.weights.get(name, 0)) for name in named))
    wide().print(shown)
    new = sum(blend.new for blend in blends)
    done = f"{out} and {new} families of {workspace.PARAMS} written" if write else f"{new} families are new; --write"
    say(f"{len(blends)} mixtures, each once for every seed: {done}")


def surface(
    metric: Annotated[str, typer.Option("--metric", help="Column that the surface is of.")] = "macro_f1",
    table: Results = None,
    families: Annotated[
        list[str] | None, typer.Option("--family", help="Say where it lies; may be given again.", show_default=False)
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw it, as SVG.", show_default=False)] = None,
    as_json: As_json = False,
) -> None:
    """Fit a quadratic surface over the teachers' weights to the runs in mode kd, and say where families lie on it.

    Scheffé's polynomial, by least squares over runs, seeds taken off as blocks. Every mixture that was run is shown
    with what the surface says of it, and the place where the surface is best. Examples:

        ferdistill study surface

        ferdistill study surface --metric nll --family 6A --family 6C --family fitted --picture surface.svg

        ferdistill study surface --results runs.csv --json
    """
    from .. import params
    from ..report import surfaces
    from ..softlabels import families as of
    from ..study import mixture as library
    from ..study import results

    settings = params.load()
    found = library.fit(results.read(table_of(table)), settings, metric)
    places = {}
    for name in families or []:
        if name not in settings.families:
            raise UsageError(f"no family `{name}`", where="--family", expected=f"one of {', '.join(settings.families)}")
        places[name] = library.place(found["surface"], of.mixture(settings.families[name], settings.lambda_))
    if picture is not None:
        with atomic(picture) as temporary:
            temporary.write_bytes(surfaces.surface(found, places))
    if as_json:
        kept = {key: value for key, value in found.items() if key != "surface"}
        print(json_text(kept | {"places": places, "picture": picture.as_posix() if picture else None}))
        return
    _print_surface(found, places)
    if picture is not None:
        say(f"{picture} written")


def _print_surface(found: dict[str, Any], places: dict[str, dict[str, Any]]) -> None:
    terms = Table(f"term of {found['metric']}", "value", "95 % interval", "p")
    for name, one in found["terms"].items():
        terms.add_row(name, digits(one["value"], "+.4f"), digits(one["interval"], "+.4f"), digits(one["p"], ".2g"))
    shown = Table(Column("mixture", overflow="fold"), *found["teachers"], "seeds", "mean", "surface", "95 % interval")

    def add(name: str, one: dict[str, Any]) -> None:
        weights = [digits(one["weights"].get(teacher, 0.0), ".2f") for teacher in found["teachers"]]
        shown.add_row(
            name, *weights, str(one.get("seeds", "-")), *(digits(one.get(k)) for k in ("mean", "fitted", "interval"))
        )

    for one in found["points"]:
        add(" = ".join(one["recipes"]), one)
    for name, one in places.items():
        add(f"{name} (family)", one)
    add("best of the surface", found["best"])
    wide().print(terms)
    wide().print(shown)
    noise, repeated, lack = found["noise"], digits(found["of_seeds"]), digits(found["lack_of_fit"], ".2g")
    say(f"{found['runs']} runs. Noise of a run: {noise:.4f}, of repeated runs {repeated}; lack of fit p = {lack}.")
    over = found["best"]["over_best_point"]
    say(
        f"The best of the surface is {over['difference']:+.4f} from the best mixture run, "
        f"{digits(over['interval'], '+.4f')} (95 %, not counting that it was sought)."
    )
