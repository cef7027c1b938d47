"""The options of commands that run a bundle."""

from pathlib import Path
from typing import Annotated

import typer

Bundle = Annotated[Path, typer.Option("--bundle", help="Directory that `ferdistill`'s stage `export` wrote.")]
Detector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        help="full_range, haar, or a YuNet file (.onnx); if not given, full_range where it was fetched, else haar.",
        show_default=False,
    ),
]
Smallest = Annotated[
    float, typer.Option("--smallest", min=0.01, max=1, help="haar: smallest find, as a share of the shorter side.")
]
Margin = Annotated[
    float | None,
    typer.Option("--margin", min=-0.4, max=2, help="Added around the box, as a share of its side; else the bundle's."),
]
Whole = Annotated[bool, typer.Option("--whole", help="Detect nothing: each picture is as a training image is.")]
Confidence = Annotated[
    float | None, typer.Option("--confidence", min=0, max=1, help="No label below it; the bundle's if not given.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all if not given.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or tensorrt.")]
