from dataclasses import replace

import numpy as np
import pytest

from ferdistill.faces import head
from ferdistill.faces.head import (
    ACTION_UNITS,
    CLASSES,
    OCCLUDERS,
    WEAKEST,
    Identity,
    View,
    draw_identity,
    draw_view,
    grey,
    mesh,
    perceived,
    prototype,
    raster,
    render,
)
from ferdistill.faces.head.person import BEARDS, HAIR_STYLES, HEADWEAR, neutral
from ferdistill.faces.head.picture import move

SHARPNESS = 1.6


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def person(seed: int) -> Identity:
    return replace(draw_identity(generator(seed)), glasses="")


def plain_view(seed: int) -> View:
    """Seen from the front, in an even light, by a camera without faults."""
    clean = {"noise": 0.0, "blur": 0.0, "motion": 0.0, "quality": 100, "occluder": "", "headwear": "", "scale": 1.0}
    return replace(draw_view(generator(seed)), yaw=0.0, pitch=0.0, roll=0.0, shift=(0.0, 0.0), **clean)


def shot(identity: Identity, units: np.ndarray, view: View, size: int = 48) -> np.ndarray:
    return grey(render(identity, units, view, size)).astype(int)


def mean_face(emotion: str) -> np.ndarray:
    people = [replace(person(seed), beard="", tone=8.0, lipstick=(0.1, 0.0, 0.0), shine=0.0) for seed in range(6)]
    return np.mean([shot(one, prototype(emotion), plain_view(seed)) for seed, one in enumerate(people)], axis=0)


# ---- the mesh and the raster --------------------------------------------------------------------------------


def test_the_nearest_of_two_triangles_shows_and_every_middle_of_a_pixel_is_covered_once() -> None:
    square = np.array([[0, 0], [8, 0], [8, 8], [0, 8]], np.float32)
    points = np.concatenate([np.c_[square, np.ones(4)], np.c_[square * 0.5, 2 * np.ones(4)]]).astype(np.float32)
    triangles = np.array([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]])
    fragments = raster.rasterise(points, triangles, 8, 8, np.ones(4, bool))
    far = fragments.of(fragments.triangle < 2)
    assert np.bincount(far.pixel, minlength=64).min() == 1
    shown = raster.nearest(fragments, 64)
    assert sorted(shown.pixel.tolist()) == list(range(64))
    owner = np.zeros(64, int)
    owner[shown.pixel] = shown.triangle
    assert (owner.reshape(8, 8)[:4, :4] >= 2).all() and (owner.reshape(8, 8)[4:] < 2).all()
    across = shown.interpolate(points[:, :1], triangles)[:, 0]
    np.testing.assert_allclose(across, shown.pixel % 8 + 0.5, atol=1e-5)


def test_a_triangle_seen_from_behind_shows_only_if_it_has_two_sides() -> None:
    points = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1]], np.float32)
    for one_sided, seen in ((True, False), (False, True)):
        found = raster.rasterise(points, np.array([[0, 1, 2]]), 4, 4, np.array([one_sided]))
        assert bool(len(found.pixel)) == seen


def test_every_person_has_the_same_distance_between_the_eyes_and_a_shape_of_their_own() -> None:
    heads = [neutral(person(seed)) for seed in range(6)]
    for points in heads:
        middle, distance = mesh.frame(points, mesh.head().material)
        np.testing.assert_allclose(middle, 0, atol=1e-5)
        assert distance == pytest.approx(1, abs=1e-5)
    skin, _ = mesh.part(mesh.SKIN)
    apart = [np.linalg.norm(a[skin] - b[skin], axis=1).mean() for a in heads for b in heads if a is not b]
    assert min(apart) > 0.03


def test_lids_close_and_no_skin_enters_an_eye() -> None:
    skin, _ = mesh.part(mesh.SKIN)
    material = mesh.head().material
    for seed in range(3):
        identity = person(seed)
        for blink in (0.0, 0.5, 1.0):
            points = move(identity, {"eyeBlinkLeft": blink, "eyeBlinkRight": blink}, (0.0, 0.0))
            for eye in (mesh.LEFT_EYE, mesh.RIGHT_EYE):
                ball = neutral(identity)[material == eye]
                away = points[skin] - ball.mean(axis=0)
                near = (np.abs(away) < 0.3).all(axis=1) & (away[:, 2] > 0)
                radius = np.linalg.norm(ball - ball.mean(axis=0), axis=1).max()
                assert np.linalg.norm(away[near], axis=1).min() > radius
        ahead = replace(plain_view(seed), gaze=(0.0, 0.0))
        irises = [replace(identity, iris=colour) for colour in ((0.5, 0.0, 0.0), (0.0, 0.0, 0.5))]
        for blink, seen in ((0.0, True), (1.0, False)):
            units = blink * np.eye(len(ACTION_UNITS))[-1]
            red, blue = (render(one, units, ahead, 96).astype(int) for one in irises)
            assert ((np.abs(red - blue) > 20).sum() > 10) == seen


# ---- pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ACTION_UNITS)
def test_every_action_unit_changes_the_picture(unit: int) -> None:
    at = ACTION_UNITS.index(unit)
    identity = replace(person(0), beard="")
    neutral_, half, full = (
        shot(identity, level * np.eye(len(ACTION_UNITS))[at], plain_view(0)) for level in (0.0, 0.5, 1.0)
    )
    assert (np.abs(full - neutral_) > 5).sum() >= 5
    assert np.abs(full - neutral_).sum() > np.abs(half - neutral_).sum() > 0


def test_a_dropped_jaw_opens_a_dark_mouth_and_a_smile_bares_teeth() -> None:
    mouth = np.s_[31:42, 18:30]
    at_rest, surprise, happy = (mean_face(emotion)[mouth] for emotion in ("neutral", "surprise", "happy"))
    assert surprise.min() < at_rest.min() - 10
    assert happy.max() > at_rest.max() + 5


@pytest.mark.parametrize("size", [24, 48, 100])
def test_render_is_deterministic_and_of_the_size_asked(size: int) -> None:
    identity, view = draw_identity(generator(3)), replace(draw_view(generator(4)), noise=3.0)
    first, again = (render(identity, prototype("fear"), view, size) for _ in range(2))
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, render(identity, prototype("fear"), replace(view, seed=view.seed + 1), size))


def test_pictures_of_one_person_are_more_alike_than_those_of_two() -> None:
    units = np.zeros(len(ACTION_UNITS))
    central = np.s_[8:42, 10:38]
    view = plain_view(0)
    faces = [shot(person(seed), units, view)[central] for seed in range(6)]
    again = [shot(person(seed), units, replace(view, yaw=0.06, noise=4.0, seed=2))[central] for seed in range(6)]
    distance = np.array([[np.abs(a - b).mean() for b in again] for a in faces])
    assert (distance.argmin(axis=1) == np.arange(6)).all()


def test_a_face_fills_its_picture_whatever_the_pose() -> None:
    for seed in range(3):
        for yaw in (-0.6, 0.0, 0.6):
            view = replace(plain_view(seed), yaw=yaw)
            pale, dark = (
                render(replace(person(seed), beard="", tone=tone), prototype("neutral"), view, 48).astype(int)
                for tone in (2.0, 8.0)
            )
            skin = np.abs(pale - dark).sum(axis=2) > 12
            assert skin[20:40, 18:30].mean() > 0.7


@pytest.mark.parametrize("occluder", OCCLUDERS)
def test_an_occluder_covers_part_of_the_face(occluder: str) -> None:
    view = replace(plain_view(5), occluder_place=(0.0, 0.3))
    bare, covered = (shot(person(5), prototype("happy"), replace(view, occluder=name)) for name in ("", occluder))
    assert 0.03 < (np.abs(bare - covered) > 10).mean() < 0.8


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_no_hair_grows_through_a_face(style: str) -> None:
    for seed in range(2):
        identity = replace(person(seed), beard="", style=style)
        hair, bald = (
            render(replace(identity, hair=colour), prototype("neutral"), plain_view(seed), 48).astype(int)
            for colour in ((0.6, 0.0, 0.6), (0.0, 0.6, 0.0))
        )
        lower = np.abs(hair - bald)[26:42, 16:32].sum(axis=2)
        assert (lower > 60).mean() < 0.02


@pytest.mark.parametrize("field, names", [("beard", BEARDS), ("headwear", HEADWEAR)])
def test_every_beard_and_hat_differs_from_none(field: str, names: tuple[str, ...]) -> None:
    identity, view = replace(person(11), beard="", style="short"), plain_view(1)
    units = prototype("neutral")
    none = shot(identity, units, view)
    for name in names[1:]:
        worn = (replace(identity, beard=name), view) if field == "beard" else (identity, replace(view, headwear=name))
        assert (np.abs(shot(worn[0], units, worn[1]) - none) > 8).mean() > 0.01, name


def test_darker_skin_gives_darker_pictures() -> None:
    levels = [
        shot(replace(person(2), tone=tone, beard=""), prototype("neutral"), plain_view(2))[14:40, 16:32].mean()
        for tone in (1.0, 4.0, 7.0, 10.0)
    ]
    assert (np.diff(levels) < -2).all()


def test_people_and_views_are_as_various_as_they_claim() -> None:
    people = [draw_identity(generator(seed)) for seed in range(400)]
    assert {one.style for one in people} == set(HAIR_STYLES)
    assert {one.beard for one in people} == set(BEARDS)
    tones = np.array([one.tone for one in people])
    assert tones.min() < 1.5 and tones.max() > 9.5 and all(((tones > t) & (tones <= t + 1)).any() for t in range(1, 10))
    assert 0.4 < np.mean([one.sex > 0.5 for one in people]) < 0.6
    assert min(one.age for one in people) < 16 and max(one.age for one in people) > 75
    views = [draw_view(generator(seed)) for seed in range(1200)]
    assert 0.05 < np.mean([bool(view.occluder) for view in views]) < 0.11
    assert np.radians(30) < max(abs(view.yaw) for view in views) < np.radians(41)


# ---- expressions --------------------------------------------------------------------------------------------


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
    weaker = perceived(np.linspace(1, 0, 8)[:, None] * prototype("happy"), SHARPNESS)[:, CLASSES.index("neutral")]
    assert (np.diff(weaker) > 0).all()


@pytest.mark.parametrize(("emotion", "runner_up"), [("fear", "surprise"), ("surprise", "fear")])
def test_fear_and_surprise_are_confused(emotion: str, runner_up: str) -> None:
    q = perceived(prototype(emotion)[None], SHARPNESS)[0]
    assert CLASSES[q.argsort()[-2]] == runner_up


def test_intensity_is_the_strength_at_which_a_prototype_is_shown() -> None:
    for emotion in CLASSES:
        shown = np.array([strength * prototype(emotion) for strength in (0.0, 0.3, 0.8, 1.0)])
        expected = np.zeros(4) if emotion == "neutral" else np.array([0.0, 0.3, 0.8, 1.0])
        np.testing.assert_allclose(head.intensity(shown), expected, atol=0.02)


def test_a_blink_changes_the_picture_and_nothing_that_annotators_see() -> None:
    units = 0.8 * prototype("sad")
    blinking = units.copy()
    blinking[ACTION_UNITS.index(43)] = 1.0
    np.testing.assert_allclose(perceived(units[None], SHARPNESS), perceived(blinking[None], SHARPNESS), rtol=1e-9)


def test_sharper_annotators_agree_more() -> None:
    units = 0.7 * prototype("sad")[None]
    assert perceived(units, 4.0).max() > perceived(units, 1.0).max()


def test_face_units_lean_to_the_stronger_side_and_keep_their_mean() -> None:
    even = head.expression.face_units(prototype("happy"), {})
    leaning = head.expression.face_units(prototype("happy"), dict.fromkeys(ACTION_UNITS, 0.2))
    assert set(even) == set(leaning) <= set(mesh.head().units)
    assert leaning["mouthSmileLeft"] == pytest.approx(1.2 * even["mouthSmileLeft"])
    assert leaning["mouthSmileLeft"] + leaning["mouthSmileRight"] == pytest.approx(2 * even["mouthSmileLeft"])
