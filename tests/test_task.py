"""Any user's task: other things, other classes, from a folder of images to a bundle that answers, in their words."""

import csv
import json
import re
import threading
import urllib.request

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from ferdistill.faces import server
from support.repository import commit, copy_of_repository, run

FACES = re.compile(
    r"\bfac(e|es|ial)\b|\bexpressions?\b(?<!regular expression)|emotion|happy|angry|disgust|surprise", re.I
)


def images_of_digits(count):
    found = load_digits()
    for image, digit in zip(found.images[:count], found.target[:count], strict=True):
        pixels = np.asarray(Image.fromarray(np.uint8(image * 15)).resize((48, 48), Image.Resampling.BICUBIC))
        yield pixels, int(digit)


def as_folders(root, classes, count):
    for number, (pixels, digit) in enumerate(images_of_digits(count)):
        (root / classes[digit]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / classes[digit] / f"{number:04d}.png")


def as_fer2013(root, classes, count):
    """FER2013's layout, codes 0 to 6, of the first seven digits."""
    root.mkdir(parents=True)
    usage = ["Training"] * 6 + ["PublicTest", "PrivateTest", "PrivateTest"]
    with (root / "fer2013.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["emotion", "pixels", "Usage"])
        rows = [(pixels, digit) for pixels, digit in images_of_digits(count) if digit < len(classes)]
        for number, (pixels, digit) in enumerate(rows):
            table.writerow([digit, " ".join(map(str, pixels.ravel())), usage[number % len(usage)]])


DIGITS = [str(digit) for digit in range(10)]
RENAMED = ["null", "één", "два", "three", "vier", "五", "six of them"]
CASES = {
    "digits in folders": (as_folders, DIGITS, 700),
    "renamed classes in FER2013's layout": (as_fer2013, RENAMED, 800),
}


def configure(project, classes):
    """One small teacher, a student, and everything else as it is."""
    raw = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"corpus": "mine", "classes": classes, "teachers": ["resnet18"], "family": "resnet18"}
    raw["families"] = {name: raw["families"][name] for name in ("none", "resnet18")}
    raw["task"] = {"thing": "digit", "things": "digits", "label": "value", "labels": "values", "detector": None}
    raw["index"] |= {"mirrored": False}
    raw["export"]["int8"] = None
    scale = raw["scales"]["smoke"]
    scale["teachers"] = {"resnet18": scale["teachers"]["resnet18"]}
    for network in (scale["teachers"]["resnet18"], scale["student"]):
        network["phases"] = [{"epochs": 3, "lr": 2.0e-3, "augment": "shift"}]
    (project / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_a_task_of_ones_own_goes_all_the_way_without_a_word_of_faces(case, tmp_path):
    write, classes, count = CASES[case]
    project = copy_of_repository(tmp_path / "project")
    configure(project, classes)
    corpus = project / "data/raw/mine"
    write(corpus, classes, count)

    said = [run(project, "ferdistill", "corpus", "describe", "data/raw/mine", "--write").stdout]
    commit(project)
    done = run(project, "dvc", "repro")
    said += [done.stdout, done.stderr]
    scores = json.loads((project / "metrics/evaluation.json").read_text())["test"]
    assert list(scores["f1"]) == classes
    assert scores["macro_f1"] > 0.7

    image = next(corpus.rglob("*.png"), None)
    if image is None:
        image = project / "one.png"
        Image.fromarray(next(images_of_digits(1))[0]).save(image)
    said += [run(project, "ferdistill", "predict", str(image)).stdout]
    answer = json.loads(run(project, "ferdistill", "predict", str(image), "--json").stdout.splitlines()[0])
    assert set(answer["faces" if "faces" in answer else "images"][0]["probabilities"]) == set(classes)
    with server.listen(project / "models/bundle", 0) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{listening.server_port}/") as page:
            said += [page.read().decode()]
        listening.shutdown()
    said += [(project / "models/bundle/README.md").read_text(encoding="utf-8")]
    said += [(project / "models/bundle/bundle.json").read_text(encoding="utf-8")]
    for text in said:
        assert not FACES.search(text), FACES.search(text)
