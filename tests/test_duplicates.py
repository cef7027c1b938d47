"""Duplicates: the hash, the search against brute force, and copies of faces found without taking others for them."""

import csv
import io
import json
import resource

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from threadpoolctl import threadpool_limits

from conftest import face
from ferdistill.data import duplicates
from ferdistill.data.duplicates import CROWD, FLAT, MAX_DISTANCE, SIDE, find, near_pairs, phash, thumbnail
from ferdistill.data.thumbnails import Thumbnails
from ferdistill.errors import CheckError, UsageError
from ferdistill.faces.head import draw_identity, draw_view, grey, prototype, render
from ferdistill.faces.rendered import write_corpus


def rgb(grey):
    return np.repeat(np.asarray(grey, dtype=np.uint8)[..., None], 3, axis=2)


def resized(pixels, side):
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file).convert("RGB"))


def mirror(pixels):
    return np.ascontiguousarray(pixels[:, ::-1])


def rendered_faces():
    rng = np.random.default_rng(5)
    emotions = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    return [rgb(grey(render(draw_identity(rng), prototype(emotions[k % 7]), draw_view(rng), 48))) for k in range(100)]


def photographed_faces():
    patches = pytest.importorskip("skimage.data").lfw_subset()[:100]
    return [resized(rgb(np.rint(255 * patch)), 48) for patch in patches]


@pytest.fixture(scope="module", params=[rendered_faces, photographed_faces], ids=["rendered", "LFW"])
def faces(request):
    return request.param()


def thumbnails_of(pictures):
    return np.stack([thumbnail(pixels) for pixels in pictures])


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)


COPIES = {
    "jpeg": (jpeg, False),
    "mirrored": (mirror, True),
    "mirrored jpeg": (lambda pixels: jpeg(mirror(pixels)), True),
    "larger jpeg": (lambda pixels: jpeg(resized(pixels, 100)), False),
    "larger mirrored jpeg": (lambda pixels: jpeg(resized(mirror(pixels), 100)), True),
}


@pytest.mark.parametrize("kind", COPIES)
def test_every_copy_is_found_and_no_stranger(faces, kind):
    copy, mirrored = COPIES[kind]
    found = find(thumbnails_of(faces + [copy(pixels) for pixels in faces]))
    assert list(zip(found["i"], found["j"], strict=True)) == [(k, k + len(faces)) for k in range(len(faces))]
    assert (found["mirrored"] == mirrored).all()


def test_distinct_faces_are_no_duplicates(faces):
    assert find(thumbnails_of(faces)).empty


def read_images(root):
    with (root / "fer2013" / "fer2013.csv").open() as file:
        for number, row in enumerate(csv.DictReader(file)):
            yield f"fer2013/fer2013.csv#{number}", rgb(np.array(row["pixels"].split(), dtype=int).reshape(48, 48))
    for file in sorted([*root.glob("rafdb/Image/aligned/*"), *root.glob("folders/*/*/*")]):
        yield file.relative_to(root).as_posix(), np.asarray(Image.open(file).convert("RGB"))


def test_what_was_planted_in_the_embedded_corpus_is_found_and_nothing_else(tmp_path):
    root = tmp_path / "embedded"
    write_corpus(root, seed=3, subjects=100, images=500, annotators=5, sharpness=1.7)
    paths, pictures = zip(*read_images(root), strict=True)
    found = find(thumbnails_of(pictures))
    of_kind = {
        kind: {frozenset((paths[row.i], paths[row.j])) for row in found[found["mirrored"] == kind].itertuples()}
        for kind in (False, True)
    }
    planted = json.loads((root / "truth" / "planted.json").read_text())
    planted = {kind: {frozenset(pair) for pair in planted[kind]} for kind in planted if kind[:8] != "subjects"}
    assert min(len(pairs) for pairs in planted.values()) >= 2
    assert of_kind[True] == planted["mirrored"]
    assert of_kind[False] == planted["exact"] | planted["reencoded"] | planted["conflicts"]


def test_the_order_of_the_images_does_not_matter(faces):
    pictures = [*faces, *map(jpeg, faces[:40]), *map(mirror, faces[20:60])]
    order = np.random.default_rng(1).permutation(len(pictures))
    thumbnails = thumbnails_of(pictures)

    def named(found, names):
        return {
            (*sorted((names[row.i], names[row.j])), row.mirrored, row.distance, row.correlation)
            for row in found.itertuples()
        }

    straight = named(find(thumbnails), np.arange(len(pictures)))
    # 40 copies by JPEG, 40 mirrored; 20 faces have both, which are copies of each other.
    assert len(straight) == 40 + 40 + 20
    assert named(find(thumbnails[order]), order) == straight


def test_a_hash_does_not_depend_on_batch_or_threads(monkeypatch):
    thumbnails = np.concatenate([noise(300), thumbnails_of([rgb(face(k)) for k in range(50)])])
    with threadpool_limits(1):
        hashes, mirrored = phash(thumbnails)
    with threadpool_limits(2):
        np.testing.assert_array_equal(phash(thumbnails), (hashes, mirrored))
    for size in (1, 7, 64):
        monkeypatch.setattr(duplicates, "_CHUNK", size)
        np.testing.assert_array_equal(phash(thumbnails), (hashes, mirrored))


def test_the_hash_is_the_textbooks_and_the_mirrored_one_that_of_the_mirror_image():
    from scipy.fft import dctn

    thumbnails = thumbnails_of([rgb(face(k)) for k in range(100)])
    hashes, mirrored = phash(thumbnails)
    low = dctn(thumbnails.astype(float), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    assert [f"{value:064b}" for value in hashes] == ["".join("01"[bit] for bit in row) for row in bits.astype(int)]
    np.testing.assert_array_equal(phash(thumbnails[:, :, ::-1]), (mirrored, hashes))


def brute_force(hashes, mirrored, distance):
    straight = np.bitwise_count(hashes[:, None] ^ hashes)
    across = np.bitwise_count(hashes[:, None] ^ mirrored)
    both = {False: straight, True: np.minimum(across, across.T)}
    rows = [
        (int(i), int(j), flipped, int(bits[i, j]))
        for flipped, bits in both.items()
        for i, j in np.argwhere(np.triu(bits <= distance, 1))
    ]
    return sorted(rows)


def rows_of(pairs):
    return list(pairs.itertuples(index=False, name=None))


# A few values and what is left of them when up to nine of the 64 bits, drawn together or apart, are turned.
turned = st.lists(st.integers(0, 63), max_size=9).map(lambda bits: sum(1 << bit for bit in set(bits)))
value = st.builds(lambda base, flip: base ^ flip, st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]), turned)


@given(rows=st.lists(st.tuples(value, value), max_size=CROWD // 2), distance=st.integers(0, MAX_DISTANCE))
@settings(max_examples=150, deadline=None)
def test_all_near_pairs_are_found(rows, distance):
    hashes, mirrored = np.array(rows, dtype=np.uint64).reshape(-1, 2).T
    assert rows_of(near_pairs(hashes, mirrored, distance)) == brute_force(hashes, mirrored, distance)


@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_all_near_pairs_are_found_among_many(distance):
    rng = np.random.default_rng(distance)
    hashes, mirrored = rng.integers(0, 2**64, (2, 60), dtype=np.uint64)[:, rng.integers(0, 60, 600)]
    for hash_of in (hashes, mirrored):
        for row, count in enumerate(rng.integers(0, 8, len(hash_of))):
            for bit in rng.choice(64, count, replace=False):
                hash_of[row] ^= np.uint64(1 << int(bit))
    expected = brute_force(hashes, mirrored, distance)
    assert rows_of(near_pairs(hashes, mirrored, distance)) == expected
    assert len(expected) > 100 * distance


def test_equal_hashes_do_not_multiply():
    count = 20_000
    hashes = np.zeros(count, dtype=np.uint64)
    pairs = near_pairs(hashes, ~hashes)
    # Each with the first, and all of these with one another.
    assert len(pairs) == CROWD * (count - CROWD) + CROWD * (CROWD - 1) // 2
    assert pairs["i"].max() < CROWD and set(pairs.loc[pairs["i"] == 0, "j"]) == set(range(1, count))


def test_too_many_near_hashes_stop_the_search(monkeypatch):
    monkeypatch.setattr(duplicates, "_LIMIT", 1000)
    film = np.arange(256, dtype=np.uint64)
    in_crowds = np.repeat(np.array([0, 1, 2, 3], dtype=np.uint64), CROWD)
    for hashes in (film, in_crowds):
        with pytest.raises(CheckError, match=r"over 1,000 pairs of images that look alike(?s:.*)frames of a film"):
            near_pairs(hashes, ~hashes)


def test_blank_pictures_are_no_copies_of_each_other():
    blank = np.full((2000, SIDE, SIDE), 128, dtype=np.uint8)
    faint = (blank + noise(2000) % 2).astype(np.uint8)
    assert faint.std() < FLAT
    assert find(np.concatenate([blank, faint])).empty
    # Rows are still those of the caller.
    pair = thumbnails_of([rgb(face(1)), jpeg(rgb(face(1)))])
    found = find(np.concatenate([blank[:3], pair[:1], faint[:3], pair[1:]]))
    assert rows_of(found[["i", "j"]]) == [(3, 7)]


def test_one_hash_is_not_enough():
    # The hash sees 8 x 8 frequencies; a fine chequerboard is beyond them.
    chequers = 100 * (np.indices((SIDE, SIDE)).sum(axis=0) % 2)
    plain = thumbnail(rgb(face(3))) // 2
    thumbnails = np.stack([plain, plain + chequers]).astype(np.uint8)
    assert len(near_pairs(*phash(thumbnails))) == 1
    assert find(thumbnails).empty


def test_a_picture_and_itself_in_less_contrast_are_two():
    picture = thumbnail(rgb(face(4)))
    assert find(np.stack([picture, picture // 2])).empty
    assert len(find(np.stack([picture // 2, picture // 2 + 100]))) == 1


def test_a_symmetric_picture_has_one_row_a_copy():
    half = noise(1)[0, :, : SIDE // 2]
    symmetric = np.hstack([half, half[:, ::-1]])
    found = find(np.stack([symmetric, symmetric]))
    assert rows_of(found) == [(0, 1, False, 0, 1.0)]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures_have_no_pairs(count):
    found = find(noise(count))
    expected = {"i": "int64", "j": "int64", "mirrored": "bool", "distance": "int64", "correlation": "float64"}
    assert found.empty and found.dtypes.astype(str).to_dict() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((noise(2), MAX_DISTANCE + 1), "a distance of 9 bits"),
        ((noise(2), -1), "a distance of -1 bits"),
        ((noise(2), 4, 0), "a correlation of 0"),
        ((noise(2), 4, 1.01), "a correlation of 1.01"),
        ((noise(2)[:, 1:],), r"uint8 \(2, 31, 32\)"),
        ((noise(2).astype(float),), r"float64 \(2, 32, 32\)"),
    ],
)
def test_a_wrong_call_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        find(*arguments)


def test_the_longer_hash_and_thumbnails_on_disk_change_no_pair(monkeypatch):
    faces = [rgb(face(seed)) for seed in range(40)]
    faint = [np.clip(pixels + np.random.default_rng(1).normal(0, 9, pixels.shape), 0, 255) for pixels in faces]
    pictures = [*faces, *map(jpeg, faces), *(pixels[:, ::-1] for pixels in faces), *(f.astype(np.uint8) for f in faint)]
    thumbnails = thumbnails_of([np.ascontiguousarray(pixels) for pixels in pictures])
    found = find(thumbnails, MAX_DISTANCE)
    kept = Thumbnails(2 * len(thumbnails))
    for row, picture in enumerate(thumbnails):
        kept[2 * row] = picture
    pd.testing.assert_frame_equal(find(kept.take(2 * np.arange(len(thumbnails))), MAX_DISTANCE), found)
    looked_at = []
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    monkeypatch.setattr(duplicates, "_may_be_copies", lambda longer, i, j, flipped: looked_at.append(len(i)) or i >= 0)
    pd.testing.assert_frame_equal(find(thumbnails, MAX_DISTANCE), found)
    assert len(found) > 80 and len(looked_at) > 20


@pytest.mark.parametrize("row", [0, 1])
def test_thumbnails_without_room_are_said(row):
    kept = Thumbnails(2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(CheckError, match=r"(?s)no room for thumbnails.*TMPDIR"):
            kept[row] = noise(1)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
