"""What public networks say of a corpus: against its labels, and against a truth that is known."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import CLASSES
from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.faces import witness

LEVEL = {name: 20 + 30 * place for place, name in enumerate(CLASSES)}
OTHER = {name: CLASSES[(place + 1) % 7] for place, name in enumerate(CLASSES)}


class Reader:
    """Names the class whose grey a picture has; `wrong` ones it takes for the class after."""

    def __init__(self, *wrong):
        self.wrong, self.facts = wrong, {"trained_on": "greys"}

    def logits(self, pictures):
        names = [CLASSES[(int(picture.mean()) - 20) // 30] for picture in pictures]
        said = [OTHER[name] if name in self.wrong else name for name in names]
        return 10.0 * np.stack([[one == name for one in CLASSES] for name in said]).astype(np.float32)


@pytest.fixture
def corpus(tmp_path):
    """Three pictures a class in folders; of each class one shows, by the truth, the class after that of its folder."""
    known = []
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            path = f"images/{name}/{number}.png"
            shown = OTHER[name] if number == 2 else name
            Image.new("RGB", (12, 12), (LEVEL[shown],) * 3).save(tmp_path / path)
            sure = (0.97, 0.6, 0.4)[number]
            q = {f"q_{one}": sure if one == shown else (1 - sure) / 6 for one in CLASSES}
            known.append({"path": path, "au01": (0.9, 0.5, 0.1)[number], "au02": 0.05, **q})
    (tmp_path / "corpus.yaml").write_text("sources: [{name: a, adapter: folders, path: images}]\n", encoding="utf-8")
    return SimpleNamespace(root=tmp_path, known=pd.DataFrame(known))


def test_without_a_truth_the_labels_are_right(corpus):
    report = witness.examine({"a": Reader(), "b": Reader("sad")}, corpus.root, CLASSES)
    assert report["against"] == "labels" and "ceiling" not in report and report["images"] == 21
    # Of each class the third picture shows another one than the label.
    assert report["scores"]["a"]["accuracy"] == pytest.approx(14 / 21)
    assert list(report["scores"]["a"]["f1"].values()) == pytest.approx([2 / 3] * 7)
    # Neither of the two sad pictures that are labelled so is called sad now, and the third is surprise as before.
    assert report["scores"]["b"]["f1"]["sad"] == 0
    assert report["agreement"]["a, b"] == pytest.approx(18 / 21)
    assert report["witnesses"] == {"a": "greys", "b": "greys"}


def test_where_the_truth_is_known_it_is_right_and_split_by_clearness_and_intensity(corpus):
    (corpus.root / "truth").mkdir()
    corpus.known.to_csv(corpus.root / "truth/samples.csv", index=False)
    report = witness.examine({"a": Reader(), "b": Reader("sad")}, corpus.root, CLASSES)
    assert report["against"] == "known distribution"
    assert report["scores"]["a"]["macro_f1"] == 1 and report["ceiling"] == pytest.approx(2 / 3)
    unclear, half, clear = report["by_clearness"]
    assert [row["images"] for row in (unclear, half, clear)] == [7, 7, 7]
    assert [row["ceiling"] for row in (unclear, half, clear)] == [0, 1, 1]
    assert all(row["macro_f1"]["a"] == 1 for row in report["by_clearness"])
    # Sad ones are missed, and taken for surprise, of which there is one more: F1 of 2 / 3.
    assert clear["macro_f1"]["b"] == pytest.approx((5 + 2 / 3) / 7)
    assert [(row["from"], row["images"]) for row in report["by_intensity"]] == [(0.0, 7), (0.4, 7), (0.8, 7)]

    corpus.known.assign(intensity=0.3).to_csv(corpus.root / "truth/samples.csv", index=False)
    report = witness.examine({"a": Reader()}, corpus.root, CLASSES)
    assert [(row["from"], row["images"]) for row in report["by_intensity"]] == [(0.2, 21)]


def test_the_mean_is_that_of_probabilities(corpus):
    class Sure(Reader):
        def logits(self, pictures):
            return 3 * super().logits(pictures)

    class Unsure(Reader):
        def logits(self, pictures):
            return super().logits(pictures) / 10

    scores = witness.examine({"a": Sure(), "b": Unsure("sad"), "c": Unsure("sad")}, corpus.root, CLASSES)["scores"]
    assert scores["mean"] == scores["a"]  # their logits' mean too, but not the vote of the three
    assert scores["b"] == scores["c"] != scores["a"]


def test_what_cannot_be_examined_stops(corpus):
    (corpus.root / "images/sad/0.png").write_bytes(b"not a picture")
    with pytest.raises(CheckError, match=r"(?s)cannot be decoded.*sad/0\.png"):
        witness.examine({"a": Reader()}, corpus.root, CLASSES)
    done = CliRunner().invoke(cli, ["corpus", "witness", str(corpus.root), "--network", "vgg"])
    assert isinstance(done.exception, UsageError) and "no public network `vgg`" in str(done.exception)


def test_the_command_prints_json_tables_and_a_picture(corpus, monkeypatch, tmp_path):
    from ferdistill.faces import public

    monkeypatch.setattr(public, "Witness", lambda name, *_: Reader("sad") if name == "fer" else Reader())
    (corpus.root / "truth").mkdir()
    corpus.known.to_csv(corpus.root / "truth/samples.csv", index=False)
    done = CliRunner().invoke(cli, ["corpus", "witness", str(corpus.root), "--json"])
    report = json.loads(done.stdout)
    assert set(report["scores"]) == {*public.NETWORKS, "mean"} and report["corpus"] == corpus.root.as_posix()
    picture = tmp_path / "witness.png"
    done = CliRunner().invoke(cli, ["corpus", "witness", str(corpus.root), "--network", "fer", "--out", str(picture)])
    assert done.exit_code == 0 and "fer was trained on greys" in done.stdout and "ceiling" in done.stdout
    assert Image.open(picture).size[0] > 1000
