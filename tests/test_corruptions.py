"""Corruptions in steps: what each does to an image, and what is scored under them."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import f1_score, log_loss

from conftest import make_index
from ferdistill.evaluation import corruptions, plots
from ferdistill.evaluation.corruptions import CORRUPTIONS, SCORES, STEPS, Deployed, corrupt

IDS = [f"{number:064x}" for number in (1, 2**200 + 7)]


def picture(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Coarse shapes and fine texture, so that every corruption has something to spoil."""
    rng = np.random.default_rng(seed)
    coarse = np.asarray(Image.fromarray(rng.integers(60, 200, (5, 5), dtype=np.uint8)).resize((shape[1], shape[0])))
    return np.clip(coarse[..., None] + rng.normal(0, 15, shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(48, 48, 1), (32, 32, 3), (37, 61, 3)])
@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_a_step_spoils_more_than_the_one_before_and_is_the_same_again(name: str, shape: tuple[int, int, int]) -> None:
    image = picture(shape)
    found = []
    for step in STEPS:
        np.random.seed(step)  # noqa: NPY002 which must not matter
        spoilt = corrupt(image, name, step, IDS[0])
        assert spoilt.shape == shape and spoilt.dtype == np.uint8
        assert (corrupt(image, name, step, IDS[0]) == spoilt).all()
        found.append(np.abs(spoilt.astype(int) - image).mean())
    assert found[0] > 0 and found[-1] > 1.1 * found[0]
    assert name == "jpeg" or found == sorted(found)
    drawn = name in ("noise", "occlusion")
    assert (corrupt(image, name, 3, IDS[1]) != corrupt(image, name, 3, IDS[0])).any() == drawn


def test_strengths_are_what_they_are_said_to_be() -> None:
    grey = np.full((224, 224, 1), 128, np.uint8)
    assert corrupt(grey, "noise", 1, IDS[0]).std() == pytest.approx(0.08 * 255, rel=0.02)
    assert corrupt(grey[:112, :112], "noise", 5, IDS[0]).std() == pytest.approx(0.19 * 255, rel=0.02)
    assert (corrupt(grey, "darkness", 2, IDS[0]) == 64).all()
    assert (corrupt(grey, "occlusion", 4, IDS[0]) != 128).mean() == pytest.approx(0.3, rel=0.01)
    assert (corrupt(grey, "blur", 5, IDS[0]) == 128).all() and (corrupt(grey, "low_resolution", 5, IDS[0]) == 128).all()
    edge = np.zeros((224, 224, 1), np.uint8)
    edge[:, 112:] = 255
    across = corrupt(edge, "blur", 3, IDS[0])[100, :, 0] / 255
    assert across == pytest.approx(norm.cdf(np.arange(224) - 111.5, scale=0.02 * 224), abs=0.01)
    file = io.BytesIO()
    image = picture((48, 48, 3))
    Image.fromarray(image).save(file, "JPEG", quality=7)
    assert (corrupt(image, "jpeg", 5, IDS[0]) == np.asarray(Image.open(file))).all()


def test_scores_are_those_of_others() -> None:
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(0, 2, (200, 4)), rng.integers(0, 4, 200)
    found = corruptions.scores(logits, labels, Deployed(1.7, 0.6, 15))
    p = softmax(logits / 1.7, axis=1)
    sure = p.max(axis=1) >= 0.6
    assert found["macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert found["nll"] == pytest.approx(log_loss(labels, p))
    assert found["answered"] == sure.mean()
    assert found["errors"] == pytest.approx((p.argmax(1) != labels)[sure].mean())
    nothing = corruptions.scores(logits, labels, Deployed(1.0, 1.0, 15))
    assert (nothing["answered"], nothing["errors"]) == (0.0, None)


def test_a_network_that_goes_by_lightness_fails_in_the_dark_alone(tmp_path: Path) -> None:
    classes = ["dark", "light"]
    rows = make_index(tmp_path / "index.csv", {"train": 4, "val": 4, "calib": 4, "test": 60}, classes)
    packed = np.stack([picture((24, 24, 1), seed) // 4 for seed in range(len(rows.rows))])
    packed[rows.codes(classes) == 1] += 100
    asked = []

    def predict(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        middle = np.median(images, axis=(1, 2, 3))
        return np.stack([80 - middle, middle - 80], axis=1) / 10

    table = corruptions.measure(rows, packed, classes, predict, Deployed(1.0, 0.5, 15), "")
    assert list(table.columns) == ["corruption", "step", *SCORES]
    assert set(asked) == {60} and len(asked) == 1 + 5 * len(CORRUPTIONS)
    at = table.set_index(["corruption", "step"])["macro_f1"]
    assert all(at[name, 0] == 1.0 for name in CORRUPTIONS)
    assert at["darkness", 1] == 1.0 and at["darkness", 5] == pytest.approx(1 / 3)
    assert at["blur", 5] == at["jpeg", 5] == at["low_resolution", 5] == 1.0

    found = corruptions.summary(table)
    assert found["clean"]["macro_f1"] == 1.0 and found["corruptions"]["jpeg"]["errors"] == 0.0
    assert found["corruptions"]["darkness"]["macro_f1"] == pytest.approx(at["darkness"].loc[1:].mean())
    others = [found["corruptions"][name]["macro_f1"] for name in CORRUPTIONS]
    assert found["mean"]["macro_f1"] == pytest.approx(np.mean(others))
    plots.robustness(tmp_path / "picture.png", {"student": table, "teacher": table})
    assert Image.open(tmp_path / "picture.png").size[0] > 1000


def test_errors_of_several_steps_are_those_of_all_their_answers() -> None:
    """A step with one answer, a wrong one, weighs as one answer; one without any weighs nothing."""
    rows = [(name, step, 0.5, 1.0, 0.1) for name in CORRUPTIONS for step in (0, *STEPS)]
    table = pd.DataFrame(rows, columns=["corruption", "step", *SCORES[:3]])
    table["answered"] = np.tile([1.0, 0.8, 0.1, 0.1, 0.0, 0.0], len(CORRUPTIONS))
    table["errors"] = np.tile([0.1, 0.1, 1.0, 0.2, np.nan, np.nan], len(CORRUPTIONS))
    found = corruptions.summary(table)
    assert found["corruptions"]["blur"]["errors"] == pytest.approx((0.8 * 0.1 + 0.1 + 0.1 * 0.2) / 1.0)
    assert found["clean"]["errors"] == pytest.approx(0.1)
    silent = table.assign(answered=0.0, errors=np.nan)
    assert corruptions.summary(silent)["mean"]["errors"] is None
