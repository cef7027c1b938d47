"""The page that `dvc plots` fills, with Vega inside it, so that it opens without a network.

`python -m ferdistill.tracking.offline_html` writes it once, at set-up: nearly a megabyte, so git-ignored.
"""

import re
from pathlib import Path

import vl_convert

from ..files import write_text

PAGE = Path(".dvc/plots/offline.html")
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ferdistill: plots</title>
<style>
  body { margin: 2rem auto; max-width: 90rem; padding: 0 1rem; background: #fff; color: #222;
         font: 16px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.4rem; font-weight: 600; }
  main { display: flex; flex-wrap: wrap; gap: 2rem 3rem; align-items: flex-start; }
  main > div { max-width: 100%; overflow-x: auto; }
  table { border-collapse: collapse; }
  td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
  img { max-width: 100%; height: auto; }
</style>
<script>
BUNDLE
</script>
</head>
<body>
<h1>Plots</h1>
<main>
{plot_divs}
</main>
</body>
</html>
"""


def write(path: Path = PAGE) -> None:
    """Write the HTML template: `{plot_divs}` is where DVC puts the plots, each a call of `vegaEmbed`."""
    # In a function of its own, or the bundle's top-level names would clash with those of DVC's scripts.
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    bundle = "(function () {\n" + bundle + "\n})();"
    bundle = re.sub("</(script)", r"<\\/\1", bundle, flags=re.IGNORECASE)
    write_text(path, TEMPLATE.replace("BUNDLE", bundle))


if __name__ == "__main__":
    write()
