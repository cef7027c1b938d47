"""Draw the sample faces of the page of `ferdistill serve`: `python web/samples.py`.

Seven people who are in no corpus that ferdistill writes, each showing one class in full, plainly seen.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from ferdistill.faces import server
from ferdistill.faces.head import draw_identity, draw_view, grey, prototype, render

SIZE = 48  # the embedded scale's, so that its bundle sees these pixels unresized
SEED = 20261125  # of no corpus: params.yaml has another


def draw(name: str) -> np.ndarray:
    """The sample of a class, uint8 (SIZE, SIZE), grey."""
    rng = np.random.default_rng((SEED, server.SAMPLES.index(name)))
    identity = replace(draw_identity(rng), glasses="")
    plain = {"noise": 2.0, "blur": 0.0, "motion": 0.0, "quality": 100, "occluder": "", "headwear": ""}
    view = replace(draw_view(rng), yaw=0.0, pitch=0.0, roll=0.0, **plain)
    return grey(render(identity, prototype(name), view, SIZE))


if __name__ == "__main__":
    for name in server.SAMPLES:
        Image.fromarray(draw(name)).save(server.WEB / "samples" / f"{name}.png", optimize=True)
