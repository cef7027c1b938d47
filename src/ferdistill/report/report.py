"""The study report: one HTML file that needs no network, and the same in Markdown with its figures beside it.

Same table, cache and working tree: same bytes. Numbers come from `facts`, words from the templates: one a section, in
Markdown, from which the page is made. Nothing in it is a fixed claim.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from ..errors import UsageError
from ..files import atomic
from ..markdown import escaped
from ..params import Params
from ..progress import track
from ..study import results
from ..study.recipes import points
from ..tracking import dvc_private
from .facts import SECTIONS, Picture, Section, opening, pictures
from .gathered import Study, gather
from .replication import load

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
HTML = RendererHTML()


def make(
    table: Path,
    params: Params,
    html: Path,
    markdown: Path,
    *,
    replication: Path | None = None,
    store: Path | None = None,
) -> list[Path]:
    """Read what there is, and write the report.

    Parameters
    ----------
    table : Path
        The results, see `results.read`.
    params : Params
    html, markdown : Path
        What to write. Figures of the Markdown go to a directory beside it, of the same name without suffix.
    replication : Path, optional
        Describes a published report that the study repeats, see `replication.load`; by default the study is its own.
    store : Path, optional
        DVC's cache, where the runs' predictions are looked up; by default that of the repository one stands in.

    Returns
    -------
    list of Path
        Everything written.

    Raises
    ------
    UsageError, CheckError
        See `results.read`, `recipes.of` and `replication.load`; or if a file cannot be written: then, none is.
    """
    published = load(replication) if replication else None
    study = gather(results.read(table), params, dvc_private.local_cache() if store is None else store, published)
    figures = markdown.with_suffix("")
    environment = words(figures.name)
    sections: dict[str, str] = {}
    drawn: dict[str, Picture] = {}
    for section in track(SECTIONS, "sections"):
        sections[name_of(section)], shown = told(section, study, environment)
        drawn |= shown
    made_from = {"table": table.as_posix(), "replication": replication.as_posix() if replication else None}
    head = tidy(environment.get_template("head.md.j2").render(study=study, **opening(study), **made_from))
    page = Environment(loader=PackageLoader("ferdistill.report"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    parts = {name: list(blocks(text, drawn)) for name, text in sections.items()}
    title, *lead = blocks(head, {})
    whole = page.get_template("report.html.j2").render(title=title, lead=lead, parts=parts)
    contents = {html: whole.encode(), markdown: ("\n\n".join([head, *sections.values()]) + "\n").encode()}
    contents |= {figures / file: picture.data for file, picture in drawn.items()}
    _write_all(contents)
    for stale in set(figures.glob("*.svg")) | set(figures.glob("*.png")):
        if stale not in contents:
            stale.unlink()
    return list(contents)


def _write_all(contents: dict[Path, bytes]) -> None:
    """Write all of these files or, where one cannot be written, none."""
    for path in contents:
        if path.is_dir():
            raise UsageError("a directory stands where a file is to be written", where=str(path), expected="a file")
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(atomic(path)).write_bytes(content)


def told(section: Section, study: Study, environment: Environment) -> tuple[str, dict[str, Picture]]:
    """The Markdown of a section, and the pictures that it shows, by their files."""
    facts = section(study)
    text = tidy(environment.get_template(f"sections/{name_of(section)}.md.j2").render(study=study, **facts))
    return text, {picture.file: picture for picture in pictures(facts)}


def name_of(section: Section) -> str:
    """What its template is called, and its part of the page."""
    return section.__name__.replace("_", "-")


def words(figures: str) -> Environment:
    """The environment of templates that give Markdown: no character of a value is markup."""
    environment = Environment(
        loader=PackageLoader("ferdistill.report"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escaped(str(value))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": points, "f": format, "capital": lambda text: text[:1].upper() + text[1:]}
    environment.globals["figures"] = figures
    return environment


def tidy(text: str) -> str:
    """Markdown with each paragraph and each item of a list on one line, as a template seldom has them."""
    made = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines()]
        made.append("\n".join(lines) if lines[0].startswith("|") else re.sub(r"\s+(?!- )", " ", "\n".join(lines)))
    return "\n\n".join(made)


def blocks(text: str, drawn: dict[str, Picture]) -> Iterator[dict[str, Any]]:
    """The blocks of a Markdown text for the page, each of a `kind`: title, prose, or table or figure with a caption."""
    groups: list[list[Token]] = [[]]
    for token in MARKDOWN.parse(text):
        groups[-1].append(token)
        if token.level == 0 and token.nesting <= 0:
            groups.append([])
    groups = groups[:-1]
    while groups:
        group = groups.pop(0)
        inner = group[1].children or []
        if group[0].type == "table_open":
            rows: list[list[Markup]] = [[]]
            for token in group:
                if token.type == "inline":
                    rows[-1].append(_inline(token))
                elif token.type == "tr_close":
                    rows.append([])
            yield {"kind": "table", "head": rows[0], "rows": rows[1:-1], "caption": _inline(groups.pop(0)[1])}
        elif len(inner) == 1 and inner[0].type == "image":
            picture = drawn[str(inner[0].attrs["src"]).rpartition("/")[2]]
            kind = {"svg": "image/svg+xml", "png": "image/png"}[picture.file.rpartition(".")[2]]
            data = f"data:{kind};base64,{base64.b64encode(picture.data).decode('ascii')}"
            alt = HTML.renderInlineAsText(inner[0].children, MARKDOWN.options, {})
            caption = _inline(groups.pop(0)[1])
            yield {"kind": "figure", "picture": picture, "data": data, "alt": alt, "caption": caption}
        elif group[0].type == "heading_open":
            yield {"kind": "title", "html": _inline(group[1])}
        else:
            yield {"kind": "prose", "html": Markup(HTML.render(group, MARKDOWN.options, {}))}


def _inline(token: Token) -> Markup:
    """What stands in a line; of a caption, what is emphasised as a whole."""
    inner = token.children or []
    if len(inner) > 2 and inner[0].type == "em_open" and inner[-1].type == "em_close":
        inner = inner[1:-1]
    return Markup(HTML.renderInline(inner, MARKDOWN.options, {}))
