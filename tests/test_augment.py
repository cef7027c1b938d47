"""Strong augmentation against scipy and torchvision, and batches gathered ahead of the step."""

import queue
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchvision.transforms import functional as reference

from ferdistill.distill import augment
from ferdistill.distill.augment import BLUR, REACHES, apply, choose, draw, recorded
from ferdistill.distill.batches import ahead

NAMES = ["turn", "scale", "shear", "across", "down", "brightness", "contrast", "saturation"]
SIDE = 64


def images(count=4, channels=3, side=SIDE):
    """Smooth pictures, so that interpolation is no matter."""
    rng = np.random.default_rng(0)
    drawn = gaussian_filter(rng.uniform(0, 255, (count, channels, side, side)), (0, 0, 3, 3))
    return torch.from_numpy(40 + 175 * (drawn - drawn.min()) / np.ptp(drawn)).float()


def only(count=4, blur=0.0, box=(0.0, 0.0, 0.0, 0.0), **values):
    """A draw that does nothing but what is named."""
    strong = torch.zeros(count, len(REACHES) + 5)
    for name, value in values.items():
        strong[:, NAMES.index(name)] = value
    strong[:, len(REACHES) :] = torch.tensor([blur, *box])
    nothing = draw(count, SIDE, torch.Generator().manual_seed(0))
    return replace(nothing, mirrored=torch.zeros(count, dtype=torch.bool), strong=strong)


def test_a_draw_of_nothing_changes_nothing():
    pictures = images()
    assert torch.allclose(apply(pictures, "strong", only()), pictures, atol=1e-3)


@pytest.mark.parametrize(
    ("drawn", "same"),
    [
        ({"turn": np.deg2rad(25)}, {"angle": 25}),
        ({"turn": np.deg2rad(-10)}, {"angle": -10}),
        ({"scale": 0.3}, {"scale": float(np.exp(0.3))}),
        ({"shear": 0.2}, {"shear": [float(np.rad2deg(np.arctan(0.2))), 0.0]}),
        ({"across": 0.125, "down": -0.0625}, {"translate": [-8, 4]}),
    ],
)
def test_turn_scale_shear_and_moves_are_torchvisions(drawn, same):
    pictures, inside = images(), slice(24, 40)
    arguments = {"angle": 0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | same
    expected = reference.affine(pictures, interpolation=reference.InterpolationMode.BILINEAR, **arguments)
    found = apply(pictures, "strong", only(**drawn))
    assert torch.allclose(found[..., inside, inside], expected[..., inside, inside], atol=1e-3)


@pytest.mark.parametrize("share", [0.008, BLUR])
def test_blur_is_scipys(share):
    pictures = images()
    radius = int(np.ceil(2 * BLUR * SIDE))
    deviation = share * SIDE
    expected = gaussian_filter(
        pictures.numpy(), (0, 0, deviation, deviation), mode="nearest", radius=(0, 0, radius, radius)
    )
    assert torch.allclose(apply(pictures, "strong", only(blur=share)), torch.from_numpy(expected), atol=1e-2)


def test_colours_change_by_the_factors_drawn():
    pictures = images()
    assert torch.allclose(apply(pictures, "strong", only(brightness=-0.4)), pictures * np.exp(-0.4), atol=1e-2)
    grey = pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(apply(grey, "strong", only(saturation=0.5)), grey, atol=0.1)
    flat = apply(pictures, "strong", only(saturation=-0.5))
    assert (flat.std(dim=1) < 0.7 * pictures.std(dim=1) + 1e-3).all()
    changed = apply(pictures, "strong", only(contrast=-0.5))
    assert torch.allclose(changed.flatten(1).std(1), np.exp(-0.5) * pictures.flatten(1).std(1), rtol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_flip_shift_is_numpys_mirror_edge_and_crop(channels):
    pictures = torch.randint(0, 256, (100, channels, 48, 48), dtype=torch.uint8)
    drawn = draw(100, 48, torch.Generator().manual_seed(2))
    assert set(drawn.shift[0].tolist()) >= {0, 8}  # as far as it goes, both ways
    for image, found, mirrored, down, right, brightness in zip(
        pictures.numpy(),
        apply(pictures, "flip_shift", drawn),
        drawn.mirrored,
        *drawn.shift,
        drawn.brightness,
        strict=True,
    ):
        padded = np.pad(image[..., ::-1] if mirrored else image, ((0, 0), (4, 4), (4, 4)), mode="edge")
        moved = padded[:, down : down + 48, right : right + 48].astype(np.float32)
        np.testing.assert_array_equal(found.numpy(), (moved * brightness.numpy()).clip(0, 255))


def test_a_box_is_erased_and_nothing_beside_it():
    pictures = images()
    found = apply(pictures, "strong", only(box=(0.25, 0.125, 0.5, 0.25)))
    rows, columns = slice(16, 24), slice(32, 48)
    assert (found[:, :, rows, columns].flatten(1).std(1) < 1e-3).all()
    found[:, :, rows, columns] = pictures[:, :, rows, columns]
    assert torch.allclose(found, pictures, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_changed_by_its_own_draw_and_stays_in_range(channels):
    pictures = torch.randint(0, 256, (40, channels, 48, 48), dtype=torch.uint8)
    drawn = draw(40, 48, torch.Generator().manual_seed(3), "strong", strength=1.0)
    found = apply(pictures, "strong", drawn)
    assert found.shape == pictures.shape and found.min() >= 0 and found.max() <= 255
    some = torch.tensor([3, 17, 39])
    assert torch.allclose(apply(pictures[some], "strong", drawn[some]), found[some], atol=1e-3)
    assert len({picture.numpy().tobytes() for picture in found}) == 40


def test_strength_says_how_far_it_goes_and_zero_is_a_flip():
    weak, strong = (draw(2000, 48, torch.Generator().manual_seed(1), "strong", s).strong for s in (0.25, 1.0))
    reach = torch.tensor(REACHES)
    assert (strong[:, : len(REACHES)].abs() <= reach).all() and (
        strong[:, : len(REACHES)].abs().amax(0) > 0.95 * reach
    ).all()
    assert (weak[:, : len(REACHES)].abs() <= 0.25 * reach).all()
    erased, blurred = (strong[:, len(REACHES) + 1] > 0), (strong[:, len(REACHES)] > 0)
    assert erased.float().mean() == pytest.approx(0.5, abs=0.05) and blurred.float().mean() == pytest.approx(
        0.4, abs=0.05
    )
    pictures = torch.randint(0, 256, (20, 1, 48, 48), dtype=torch.uint8)
    drawn = draw(20, 48, torch.Generator().manual_seed(1), "strong", 0.0)
    assert torch.allclose(apply(pictures, "strong", drawn), apply(pictures, "flip", drawn).float(), atol=1e-2)


def test_other_augmentations_draw_as_they_did():
    plain, strong = (torch.Generator().manual_seed(5) for _ in range(2))
    old, new = draw(10, 48, plain, "flip_shift"), draw(10, 48, strong, "strong")
    assert torch.equal(old.shift, new.shift) and torch.equal(old.brightness, new.brightness) and old.strong is None
    # Three draws, and no more: what a run draws next is what it always was.
    torch.rand(10, generator=(again := torch.Generator().manual_seed(5)))
    torch.randint(0, 9, (2, 10), generator=again)
    torch.rand(10, generator=again)
    assert torch.equal(plain.get_state(), again.get_state())


def test_strong_views_are_recorded():
    views, again = (recorded(3, 20, 48, "strong") for _ in range(2))
    assert all(torch.equal(a.strong, b.strong) for a, b in zip(views, again, strict=True))
    rows, which = torch.tensor([4, 9, 13]), torch.tensor([2, 0, 1])
    expected = torch.stack([views[v].strong[r] for v, r in zip(which, rows, strict=True)])
    assert torch.equal(choose(views, which, rows).strong, expected)
    with pytest.raises(ValueError, match="was not drawn"):
        apply(images(), "strong", draw(4, SIDE, torch.Generator()))
    assert augment.VIEW_SEED == 1


def test_batches_come_ahead_in_their_order_and_the_thread_ends():
    device = torch.device("cpu")
    made = []

    def numbers(count, fails=False):
        for number in range(count):
            made.append(number)
            yield number
        if fails:
            raise OSError("a shard is gone")

    assert list(ahead(numbers(20), device)) == list(range(20))
    made.clear()
    taken = ahead(numbers(100), device)
    assert next(taken) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:  # it goes on while nobody asks, and not without end
        time.sleep(0.01)
    time.sleep(0.3)
    assert 3 <= len(made) <= 5
    taken.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]
    with pytest.raises(OSError, match="a shard is gone"):
        list(ahead(numbers(3, fails=True), device))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_without_room_for_its_own_error_keeps_nobody_waiting(monkeypatch):
    put = queue.Queue.put

    def full(self, found, *rest, **options):
        if isinstance(found, BaseException):
            raise MemoryError
        put(self, found, *rest, **options)

    monkeypatch.setattr(queue.Queue, "put", full)

    def batches():
        yield 0
        raise MemoryError

    taken = ahead(batches(), torch.device("cpu"))
    assert next(taken) == 0
    with pytest.raises(MemoryError):
        next(taken)
