"""The options of commands that run a bundle."""

from pathlib import Path
from typing import Annotated

import typer

BundleOption = Annotated[Path, typer.Option("--bundle", help="Directory that `ferdistill`'s stage `export` wrote.")]
DetectorOption = Annotated[
    str | None, typer.Option("--detector", help="haar, or a YuNet file (.onnx); haar if not given.", show_default=False)
]
SmallestOption = Annotated[
    float, typer.Option("--smallest", min=0.01, max=1, help="haar: smallest find, as a share of the shorter side.")
]
MarginOption = Annotated[
    float, typer.Option("--margin", min=-0.4, max=2, help="Added around the box, as a share of its side.")
]
WholeOption = Annotated[bool, typer.Option("--whole", help="Detect nothing: each picture is as a training image is.")]
ConfidenceOption = Annotated[
    float | None, typer.Option("--confidence", min=0, max=1, help="No label below it; the bundle's if not given.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all if not given.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or tensorrt.")]
