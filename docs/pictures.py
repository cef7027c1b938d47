"""Draw the README's pictures from the results in the working tree: `python docs/pictures.py`."""

import json
import subprocess
from pathlib import Path

import numpy as np
import vl_convert
from PIL import Image

from ferdistill import params, workspace
from ferdistill.data import images, index
from ferdistill.faces import head

OUT = Path(__file__).parent / "images"


def faces(settings: params.Params, columns: int = 12, zoom: int = 2) -> Image.Image:
    """A row of test faces for each class, in the order of params.yaml."""
    rows = index.read(workspace.index_csv(settings.index_tag))
    packed = images.load(workspace.images(settings.index_tag), rows)
    codes = rows.codes(settings.classes)
    test = rows.positions("test")
    # Evenly spaced over the split, so that every source has its share.
    grid = [
        np.hstack([packed[row].squeeze(-1) for row in of_class[np.linspace(0, len(of_class) - 1, columns).astype(int)]])
        for of_class in (test[codes[test] == code] for code in range(len(settings.classes)))
    ]
    sheet = Image.fromarray(np.vstack(grid))
    return sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.BICUBIC)


def heads(columns: int = 12, size: int = 96) -> Image.Image:
    """A row of rendered people for each class, none of them in a corpus, as a corpus shows them but for their size."""
    rows = []
    for code, name in enumerate(head.CLASSES):
        row = []
        for column in range(columns):
            rng = np.random.default_rng((2026, column, code))
            identity, view = head.draw_identity(rng), head.draw_view(rng)
            row.append(head.render(identity, rng.uniform(0.8, 1) * head.prototype(name), view, size))
        rows.append(np.hstack(row))
    return Image.fromarray(np.vstack(rows))


def plot(file: str) -> bytes:
    """One of DVC's plots as a PNG."""
    shown = subprocess.run(["dvc", "plots", "show", file, "--json"], capture_output=True, text=True, check=True)
    content = next(iter(json.loads(shown.stdout)["data"].values()))[0]["content"]
    return bytes(vl_convert.vegalite_to_png(content, scale=2))


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    heads().save(OUT / "heads.jpg", quality=88)
    faces(params.load()).save(OUT / "faces.png", optimize=True)
    for name in ("reliability", "per_class_f1"):
        (OUT / f"{name}.png").write_bytes(plot(f"plots/{name}.csv"))
