from dataclasses import replace

import numpy as np
import pytest

from ferdistill.faces.renderer import (
    ACTION_UNITS,
    CLASSES,
    OCCLUDERS,
    WEAKEST,
    Identity,
    View,
    draw_identity,
    draw_view,
    perceived,
    prototype,
    render,
)

SHARPNESS = 1.6


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def person(seed: int) -> Identity:
    return replace(draw_identity(generator(seed)), glasses=False)


def plain_view(seed: int) -> View:
    return replace(draw_view(generator(seed)), occluder="", noise=0.0, blur=0.0)


def drawn_mean(emotion: str, size: int = 48) -> np.ndarray:
    faces = [render(person(seed), prototype(emotion), plain_view(seed), size) for seed in range(12)]
    return np.mean(faces, axis=0)


@pytest.mark.parametrize("unit", ACTION_UNITS)
def test_every_action_unit_changes_the_picture(unit: int) -> None:
    at = ACTION_UNITS.index(unit)
    for seed in range(4):
        neutral = render(person(seed), np.zeros(len(ACTION_UNITS)), plain_view(seed), 48).astype(int)
        half, full = (render(person(seed), level * np.eye(16)[at], plain_view(seed), 48) for level in (0.5, 1.0))
        assert (np.abs(full - neutral) > 5).sum() >= 5
        assert np.abs(full - neutral).sum() > np.abs(half - neutral).sum() > 0


def test_a_dropped_jaw_opens_a_dark_mouth_and_a_smile_bares_teeth() -> None:
    mouth = np.s_[30:42, 16:32]
    neutral, surprise, happy = (drawn_mean(emotion)[mouth] for emotion in ("neutral", "surprise", "happy"))
    assert surprise.min() < neutral.min() - 15
    assert happy.max() > neutral.max() + 5


@pytest.mark.parametrize("size", [24, 48, 100])
def test_render_is_deterministic_and_of_the_size_asked(size: int) -> None:
    identity, view = draw_identity(generator(3)), draw_view(generator(4))
    first, again = (render(identity, prototype("fear"), view, size) for _ in range(2))
    assert first.shape == (size, size)
    assert first.dtype == np.uint8
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, render(identity, prototype("fear"), replace(view, seed=view.seed + 1), size))


def test_pictures_of_one_person_are_more_alike_than_those_of_two() -> None:
    units = np.zeros(len(ACTION_UNITS))
    faces = [render(person(seed), units, replace(plain_view(0), seed=1), 48).astype(float) for seed in range(6)]
    again = [render(person(seed), units, replace(plain_view(0), seed=2), 48).astype(float) for seed in range(6)]
    central = np.s_[12:42, 12:36]
    distance = np.array([[np.abs(a[central] - b[central]).mean() for b in again] for a in faces])
    assert (distance.argmin(axis=1) == np.arange(6)).all()


@pytest.mark.parametrize("occluder", OCCLUDERS)
def test_an_occluder_covers_part_of_the_face(occluder: str) -> None:
    view = replace(plain_view(5), occluder="", background=30.0, occluder_shift=0.0)
    bare, covered = (
        render(person(5), prototype("happy"), replace(view, occluder=name), 48).astype(int) for name in ("", occluder)
    )
    assert 0.03 < (np.abs(bare - covered) > 10).mean() < 0.6


def test_few_faces_are_occluded() -> None:
    views = [draw_view(generator(seed)) for seed in range(1500)]
    assert 0.05 < np.mean([bool(view.occluder) for view in views]) < 0.11


def test_perceived_is_a_distribution_of_double_precision() -> None:
    q = perceived(generator(0).uniform(0, 1, (200, len(ACTION_UNITS))), SHARPNESS)
    assert q.shape == (200, 7)
    assert q.dtype == np.float64
    assert (q > 0).all()
    np.testing.assert_allclose(q.sum(axis=1), 1, atol=1e-12)


def test_perceived_agrees_with_a_direct_computation() -> None:
    units = generator(1).uniform(0, 1, len(ACTION_UNITS))
    logits = []
    for emotion in CLASSES:
        along = np.linspace(WEAKEST, 1, 20001)[:, None] * prototype(emotion)
        logits.append(-SHARPNESS * ((units - along) ** 2).sum(axis=1).min())
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(perceived(units[None], SHARPNESS)[0], expected, rtol=1e-6)


def test_full_expressions_are_named_and_weak_ones_look_neutral() -> None:
    prototypes = np.array([prototype(emotion) for emotion in CLASSES])
    assert perceived(prototypes, SHARPNESS).argmax(axis=1).tolist() == list(range(7))
    assert {CLASSES[i] for i in perceived(0.25 * prototypes, SHARPNESS).argmax(axis=1)} == {"neutral"}
    neutral = perceived(np.linspace(1, 0, 8)[:, None] * prototype("happy"), SHARPNESS)[:, CLASSES.index("neutral")]
    assert (np.diff(neutral) > 0).all()


@pytest.mark.parametrize(("emotion", "runner_up"), [("fear", "surprise"), ("surprise", "fear")])
def test_fear_and_surprise_are_confused(emotion: str, runner_up: str) -> None:
    q = perceived(prototype(emotion)[None], SHARPNESS)[0]
    assert CLASSES[q.argsort()[-2]] == runner_up


def test_sharper_annotators_agree_more() -> None:
    units = 0.7 * prototype("sad")[None]
    assert perceived(units, 4.0).max() > perceived(units, 1.0).max()
