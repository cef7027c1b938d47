"""The page that `dvc plots` fills, with Vega inside it, so that it opens without a network.

`python -m ferdistill.tracking.offline_html` writes it once, at set-up: nearly a megabyte, so git-ignored.
"""

import base64
import hashlib
import re
from pathlib import Path

import vl_convert

from ..files import write_text

PAGE = Path(".dvc/plots/offline.html")
# DVC puts JSON into scripts as it is, so a cell of a plot's file, `</script><script>`, would run. Behind <plaintext>
# no browser sees markup any more, whatever stands there; DRAW reads the JSON out of the text. Beside it the policy
# lets this one script run, by its digest, and neither evaluates text nor asks for anything elsewhere.
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-DIGEST'; \
style-src 'unsafe-inline'; img-src 'self' file: data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ferdistill: plots</title>
<style>
  body { margin: 2rem auto; max-width: 90rem; padding: 0 1rem; background: #fff; color: #222;
         font: 16px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.4rem; font-weight: 600; }
  main { display: flex; flex-wrap: wrap; gap: 2rem 3rem; align-items: flex-start; }
  main > * { max-width: 100%; overflow-x: auto; margin: 0; }
  img { max-width: 100%; height: auto; }
</style>
<script>SCRIPT</script>
</head>
<body>
<h1>Plots</h1>
<main></main>
<plaintext hidden>
{plot_divs}
"""
DRAW = """
document.addEventListener("DOMContentLoaded", () => {
  const add = (kind, text = "") => {
    const made = document.createElement(kind);
    made.textContent = text;
    document.querySelector("main").append(made);
    return made;
  };
  const failed = (error) => add("p", `A plot could not be drawn: ${error.message}`);
  const actions = { export: true, source: false, compiled: false, editor: false };
  const other = [];
  for (const line of document.querySelector("plaintext").textContent.split("\\n")) {
    const spec = /^ *var spec = (.*);$/.exec(line);
    if (!spec) {
      other.push(line);
      continue;
    }
    try {
      vegaEmbed(add("div"), JSON.parse(spec[1]), { ast: true, actions }).catch(failed);
    } catch (error) {
      failed(error);
    }
  }
  // Parsed apart, scripts do not run; of what is there, pictures with their revisions alone are taken over.
  const parsed = new DOMParser().parseFromString(other.join("\\n"), "text/html");
  for (const image of parsed.querySelectorAll("p + img")) {
    const figure = add("figure", image.previousElementSibling.textContent);
    figure.append(Object.assign(document.createElement("img"), { src: image.getAttribute("src") }));
  }
});
"""


def write(path: Path = PAGE) -> None:
    """Write the HTML template: `{plot_divs}` is where DVC puts the plots, each a call of `vegaEmbed`."""
    # In a function of its own, the bundle's top-level names stay out of the page.
    script = f"(function () {{\n{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}\n}})();{DRAW}"
    script = re.sub("</(script)", r"<\\/\1", script, flags=re.IGNORECASE).replace("\r", "")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    write_text(path, TEMPLATE.replace("DIGEST", digest).replace("SCRIPT", script))


if __name__ == "__main__":
    write()
