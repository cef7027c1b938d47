"""`ferdistill bench`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from ..errors import UsageError
from ..plain import json_text
from ..progress import bar
from .console import wide


def bench(
    paths: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Bundles, or ONNX files.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of a call.")] = 1,
    batches: Annotated[str, typer.Option("--batch", help="Images of a call, several with commas.")] = "1,32",
    provider: Annotated[str, typer.Option("--provider", help="cpu, cuda, tensorrt, or auto.")] = "cpu",
    rounds: Annotated[int, typer.Option("--rounds", min=10, help="Rounds that count.")] = 200,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Rounds before them.")] = 20,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Of one input, for ONNX files that leave it open; as 48,48,1.")
    ] = None,
) -> None:
    """Measure models side by side: latency, images a second, memory, size.

    Every round calls each model once, so that a slow moment slows all. Of a bundle all variants are measured, at the
    network's own size unless --shape says another. Students of all families are one architecture: expect them to differ
    by nothing but noise. Examples:

        ferdistill bench models/bundle

        ferdistill bench bundles/pairwise bundles/fourway bundles/fused --json

        ferdistill bench models/bundle other.onnx --shape 48,48,1 --provider cuda --batch 1,32,256
    """
    from ..runtime import latency

    sizes = _integers(batches, "--batch")
    own = None if shape is None else tuple(_integers(shape, "--shape"))
    models = [model for path in paths for model in latency.models_at(path, own)]
    with bar() as progress:
        task = progress.add_task("measuring", total=len(sizes))
        result = latency.bench(models, sizes, threads, provider, warmup, rounds, lambda: progress.advance(task))
    if as_json:
        print(json_text(result))
    else:
        float32 = [m for m in models if m.info and m.file.name == m.info["variants"].get("fp32")]
        _print(result, sizes, [model.info["architecture"] for model in float32])


def _integers(text: str, option: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"`{text}`", where=option, expected="whole numbers above 0, with commas between them")
    return [int(part) for part in parts]


def _print(result: dict[str, Any], sizes: list[int], float32: list[str]) -> None:
    """Print the table; `float32` has the architecture of each bundle's float32 file."""
    console = wide()
    about = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    table = Table(
        Column("model", overflow="fold"),
        *("batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "time / first's", "MB", "peak MB"),
        title=f"{result['machine']}, threads {result['threads']}, {result['models'][0]['provider']}; {about}",
        title_justify="left",
    )
    for model in result["models"]:
        for size in sizes:
            found = model[f"batch_{size}"]
            first = size == sizes[0]
            peak = model["peak_memory_bytes"]
            table.add_row(
                model["name"] if first else "",
                str(size),
                *(f"{found[name]:.3f}" for name in ("p50_ms", "p95_ms", "p99_ms")),
                f"{found['images_per_s']:.0f}",
                f"{found['ratio']:.2f}",
                f"{model['size_bytes'] / 1e6:.2f}" if first else "",
                ("-" if peak is None else f"{peak / 1e6:.0f}") if first else "",
            )
    console.print(table)
    if len(float32) > 1 and len(set(float32)) == 1:
        console.print(
            "The float32 files are of one architecture and run the same operations: a difference between them is noise."
        )
