"""What MkDocs does beside rendering docs/: pages made from the code, links out of docs/, and no request to elsewhere.

`index.md` is the README, `cli.md` what Typer says of every command, `params.md` params.yaml with its own comments and
the types and words of `ferdistill.params`. They are made at every build, so they cannot fall behind.
"""

import posixpath
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from ferdistill.params import Params

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
# Sections that params.yaml has several of, by the reader's own names.
MANY = {"families", "scales"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the pictures that lie outside docs/."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = {target for mark, _, target in LINK.findall(readme) if mark and not target.startswith("docs/")}
    for page in files.documentation_pages():
        outside = [target for mark, _, target in LINK.findall(page.content_string) if mark and target.startswith("../")]
        pictures.update(target.removeprefix("../") for target in outside)
    for name, text in {"index.md": readme, "cli.md": cli_page(), "params.md": params_page()}.items():
        files.append(File.generated(config, name, content=text))
    for target in sorted(pictures):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files outside docs/ into their paths: the site does not hold them."""
    base = "" if page.file.src_uri == "index.md" else posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def replace(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if target.startswith(("#", "http://", "https://", "mailto:")):
            return match[0]
        path = posixpath.normpath(posixpath.join(base, target))
        if path.startswith("docs/"):
            here = posixpath.relpath(path, base or "docs") if base else path.removeprefix("docs/")
            return f"{mark}[{text}]({here})"
        if mark:
            return f"![{text}]({path})"
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    return LINK.sub(replace, markdown)


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    """Let the page of what is not found link to its neighbours: the site may lie in any folder, or in a file system."""
    if template_name != "404.html":
        return output_content
    linked = re.sub(r"""(href|src)=(["']?)/(?!/)""", r"\1=\2./", output_content)
    return re.sub(r'"base": ?"/?"', '"base": "."', linked)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would load anything from elsewhere.

    Raises
    ------
    PluginError
        Naming each page or style sheet, and what it would load.
    """
    found = []
    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix == ".html":
            page = _Loaded()
            page.feed(file.read_text(encoding="utf-8"))
            found += [f"{file.name}: {url}" for url in page.urls]
        elif file.suffix == ".css":
            urls = re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]+)", file.read_text(encoding="utf-8"))
            found += [f"{file.name}: {url}" for url in urls]
    if found:
        raise PluginError("the site would load from elsewhere:\n  " + "\n  ".join(found))


class _Loaded(HTMLParser):
    """Collects what a page loads from other hosts; links that a reader may follow are none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            loads = name in {"src", "srcset", "data", "poster"} or (name == "href" and tag in {"link", "use", "image"})
            if loads and value and re.match(r"(https?:)?//", value):
                self.urls.append(value)


def cli_page() -> str:
    """Every command with its arguments, options and examples, as Typer's own `typer utils docs` writes them."""
    command = [sys.executable, "-m", "typer", "--app", "cli", "ferdistill.cli", "utils", "docs"]
    done = subprocess.run(
        [*command, "--name", "ferdistill", "--title", "Command line"], capture_output=True, text=True, check=True
    )
    # Lists of commands are cut short, and the sections stand right below them.
    whole = re.sub(r"\*\*Commands\*\*:\n\n(\* [^\n]*\n)+\n", "", done.stdout)
    # Examples that a docstring has at its own margin.
    return re.sub(r"^(ferdistill [^\n]*)$", r"    \1", whole, flags=re.M)


def params_page() -> str:
    """params.yaml as tables: each parameter's value there, what it may be, and the comment beside it."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    schema = Params.model_json_schema()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    plain = [
        "# Parameters\n",
        "`params.yaml` is the only place where a default stands. `python src/stage.py params` checks it as a whole, "
        "and so does every stage: a name that is not listed here is refused.\n",
        _HEAD,
    ]
    sections: list[str] = []
    for key, node in root.value:
        of = schema["properties"][key.value]
        if key.value in MANY:
            continue
        section = _resolve(of, schema)
        if section.get("properties"):
            sections += [f"\n## {key.value}\n", _about(_above(lines, key), section), _HEAD]
            sections += _rows(node, section, schema, lines, f"{key.value}.")
        else:
            plain += _rows(yaml.MappingNode("", [(key, node)]), schema, schema, lines, "")
    return "\n".join([*plain, *sections, *_many(root, schema, lines)]) + "\n"


_HEAD = "| name | in params.yaml | may be | |\n|---|---|---|---|"


def _rows(node: yaml.MappingNode, section: dict[str, Any], schema: Any, lines: list[str], prefix: str) -> list[str]:
    rows = []
    for key, value in node.value:
        written = yaml.safe_dump(yaml.safe_load(yaml.serialize(value)), default_flow_style=True, width=1000)
        shown = written.removesuffix("\n").removesuffix("\n...")
        about = _beside(lines, key) or " ".join(_above(lines, key))
        of = _resolve(section["properties"][key.value], schema)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            variants = [_resolve(one, schema) for one in of.get("anyOf", [of])]  # a section may also be null
            below = next(one for one in variants if "properties" in one)
            rows += _rows(value, below, schema, lines, f"{prefix}{key.value}.")
            continue
        parts = of.get("properties", {}).items()
        allowed = ", ".join(f"{name}: {_allowed(part, schema)}" for name, part in parts) or _allowed(of, schema)
        rows.append(f"| `{prefix}{key.value}` | `{shown}` | {allowed} | {about} |".replace("\n", " "))
    return rows


def _many(root: yaml.MappingNode, schema: dict[str, Any], lines: list[str]) -> list[str]:
    """The sections whose names the reader chooses: what each may hold."""
    out = []
    for key, node in root.value:
        if key.value not in MANY:
            continue
        names = ", ".join(f"`{name.value}`" + _colon(_above(lines, name)) for name, _ in node.value)
        out += [
            f"\n## {key.value}\n",
            "".join(f"{line}\n" for line in _above(lines, key)),
            f"There are {names}.\n",
            _TYPES,
        ]
        item = _resolve(_member(schema["properties"][key.value]), schema)
        out += _fields(item, schema, f"{key.value}.NAME.")
    return out


_TYPES = "| name | may be | |\n|---|---|---|"


def _fields(section: dict[str, Any], schema: dict[str, Any], prefix: str) -> list[str]:
    rows = []
    for name, of in section["properties"].items():
        inner = of.get("items", _member(of))
        place = "" if inner is of else "[]" if "items" in of else ".NAME"
        variants = [_resolve(one, schema) for one in inner.get("oneOf", inner.get("anyOf", [inner]))]
        nested = [one for one in variants if one.get("properties")]
        if not nested:
            rows.append(f"| `{prefix}{name}` | {_allowed(of, schema)} | {of.get('description', '')} |")
        for one in nested:
            about = of.get("description") or " ".join(one.get("description", "").split("\n\n")[0].split())
            rows.append(f"| **`{prefix}{name}{place}`** | {_allowed(of, schema)} | {about} |")
            rows += _fields(one, schema, f"{prefix}{name}{place}.")
    return rows


def _member(of: dict[str, Any]) -> dict[str, Any]:
    """What a mapping holds under every name, or the schema itself if it is no such mapping."""
    return next(iter(of.get("patternProperties", {}).values()), of)


def _resolve(of: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in of:
        of = schema["$defs"][of["$ref"].rpartition("/")[2]]
    return of


def _allowed(of: dict[str, Any], schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    of = _resolve(of, schema)
    if "enum" in of or "const" in of:
        return ", ".join(f"`{value}`" for value in of.get("enum", [of.get("const")]))
    choices = of.get("anyOf", of.get("oneOf"))
    if choices:
        return " or ".join(_allowed(one, schema) for one in choices)
    kind = of.get("type")
    if kind == "array":
        return f"list of {_allowed(of['items'], schema)}"
    if kind == "object":
        member = _member(of)
        return (
            "section" if "properties" in of else "mapping" if member is of else f"names to {_allowed(member, schema)}"
        )
    words = {"integer": "whole number", "number": "number", "string": "text", "null": "null", "boolean": "true, false"}
    limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {of[name]:,}" for name, word in limits.items() if name in of]
    return " ".join([words[str(kind)], *said])


def _beside(lines: list[str], key: yaml.ScalarNode) -> str:
    line = lines[key.start_mark.line]
    return line.partition(" # ")[2].strip()


def _above(lines: list[str], key: yaml.ScalarNode) -> list[str]:
    """The comment in the lines right above a key, of the same indentation."""
    start = " " * key.start_mark.column + "# "
    found: list[str] = []
    for line in reversed(lines[: key.start_mark.line]):
        if not line.startswith(start) or "----" in line:
            break
        found.insert(0, line.removeprefix(start))
    return found


def _about(above: list[str], section: dict[str, Any]) -> str:
    """What stands above a section in params.yaml, or else what its type says of itself."""
    said = " ".join(above) or section.get("description", "").strip()
    return f"{said}\n\n" if said else ""


def _colon(above: list[str]) -> str:
    return f" ({' '.join(above).rstrip('.')})" if above else ""
