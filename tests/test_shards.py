"""Shards of packed images and answers kept: whatever was there before, the bytes are those of a build at once."""

import contextlib
import io
import resource
import shutil
import sqlite3
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import chain
from multiprocessing import get_context

import numpy as np
import pytest
import timm
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import THREE
from ferdistill.data import images, index, looks, packing
from ferdistill.data.build import build
from ferdistill.data.memo import NOTHING_KNOWN, memo
from ferdistill.distill.answers import answers as answered_by
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import sha256
from ferdistill.params import ImageParams
from support.corpora import SETTINGS
from support.images import unpack

SIZE = 16
COUNT = 40
SMALL = 12 * SIZE * SIZE  # bytes of a shard: twelve images


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(images, "SHARD_BYTES", SMALL)


@cache
def picture(number):
    """A PNG of noise, of which no two are copies."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


class Corpus:
    """A corpus of class folders that changes, and what is built of it, each time on what was built before."""

    def __init__(self, root):
        self.root, self.names, self.source, self.number = root / "corpus", [], "s", 0
        for _ in range(COUNT):
            self.add()
        self.describe()

    def add(self):
        name = f"{THREE[self.number % 3]}/{self.number}.png"
        file = self.root / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(self.number))
        self.names.append(name)
        self.number += 1

    def describe(self):
        source = {"name": self.source, "adapter": "folders", "path": "pictures"}
        (self.root / "corpus.yaml").write_text(yaml.safe_dump({"sources": [source]}))

    def change(self, kind, number):
        place = number % len(self.names)
        if kind == "add":
            self.add()
        elif kind == "rename":
            self.source = f"s{number}"
            self.describe()
        elif len(self.names) > 30:
            name = self.names.pop(place)
            file = self.root / "pictures" / name
            if kind == "remove":
                file.unlink()
            else:
                label, _, rest = name.partition("/")
                self.names.append(f"{THREE[(THREE.index(label) + 1) % 3]}/{rest}")
                file.rename(self.root / "pictures" / self.names[-1])

    def build(self, folder, known):
        """Index and shards below `folder`, whatever it holds."""
        with memo(known) as answers:
            built = build(self.root, THREE, SETTINGS, 1, answers)
            self.index = index.Index(built.rows, {})
            folder.mkdir(exist_ok=True)
            built.rows.to_csv(folder / "i.csv")
            settings = ImageParams(size=SIZE, channels=1)
            return packing.pack(self.index, self.root, folder / "images", THREE, settings, answers)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def break_off(corpus, folder, known, monkeypatch, after):
    """A build that is killed once so many shards are written."""
    written = Counter()

    def header(shard, shape, plain=images.Shard.header):
        written["headers"] += 1
        if written["headers"] > after:
            raise KeyboardInterrupt
        return plain(shard, shape)

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(images.Shard, "header", header)
        corpus.build(folder, known)
        raise KeyboardInterrupt  # it ended before


CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "relabel", "rename", "kill", "edit", "forget"]), st.integers(0, 999)),
    min_size=1,
    max_size=12,
)


def history(changes, root, monkeypatch):
    corpus, folder, known = Corpus(root), root / "grown", root / "memo.sqlite"
    corpus.build(folder, known)
    for kind, number in changes:
        if kind == "kill":
            corpus.add()
            break_off(corpus, folder, known, monkeypatch, number % 9)
        elif kind == "edit":
            shards = sorted((folder / "images").glob("*.npy"))
            content = bytearray(shards[number % len(shards)].read_bytes())
            content[-1 - number % 60] ^= 1
            shards[number % len(shards)].write_bytes(content)
        elif kind == "forget":
            known.unlink(missing_ok=True)  # it may be forgotten already
        else:
            corpus.change(kind, number)
        if number % 2:
            corpus.build(folder, known)
    corpus.build(folder, known)
    corpus.build(root / "at once", root / "none.sqlite")
    assert files(folder) == files(root / "at once")


def test_a_history_of_changes_ends_in_the_bytes_of_a_build_at_once(tmp_path, small_shards, monkeypatch):
    kinds = ["add", "kill", "edit", "remove", "relabel", "forget", "rename", "kill", "add"]
    history([(kind, 2 * place + place % 3) for place, kind in enumerate(kinds)], tmp_path, monkeypatch)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX")
def test_a_disk_that_fills_up_in_the_middle_of_a_shard_costs_a_message_and_nothing_else(tmp_path, small_shards):
    corpus, folder = Corpus(tmp_path), tmp_path / "grown"
    corpus.build(folder, tmp_path / "memo")
    for _ in range(9):
        corpus.add()
    corpus.build(tmp_path / "at once", tmp_path / "none")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL // 2, before[1]))
        with pytest.raises(CheckError, match=r"(?s)no room.*images-.*make room and run again"):
            packing.pack(corpus.index, corpus.root, folder / "images", THREE, ImageParams(size=SIZE, channels=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(UsageError, match="missing"):
        images.load(folder / "images", corpus.index)
    corpus.build(folder, tmp_path / "memo")
    assert files(folder) == files(tmp_path / "at once")


def build_and_change(corpus, folder, known, turns):
    """In a process of its own: the corpus built again and again, what is known taken away each time."""
    images.SHARD_BYTES = SMALL
    for _ in range(turns):
        corpus.build(folder, known)
        known.unlink(missing_ok=True)
    corpus.build(folder, known)


@pytest.mark.slow
def test_two_processes_that_build_at_once_share_what_is_known_and_have_the_same_bytes(tmp_path, small_shards):
    corpus, known = Corpus(tmp_path), tmp_path / "memo"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = [pool.submit(build_and_change, corpus, tmp_path / name, known, 6) for name in "ab"]
        assert [one.result() for one in made] == [None, None]
    corpus.build(tmp_path / "at once", tmp_path / "none")
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "at once")


@pytest.mark.slow
def test_two_hundred_histories(tmp_path_factory, small_shards, monkeypatch):
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CHANGES)
    def check(changes):
        root = tmp_path_factory.mktemp("history")
        history(changes, root, monkeypatch)
        shutil.rmtree(root)

    check()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 120)), min_size=1, max_size=4), st.sampled_from([0, 1, 2, None]))
def test_any_sequence_of_images_leaves_the_shards_of_the_last(tmp_path_factory, small_shards, sets, broken):
    root = tmp_path_factory.mktemp("shards")

    def write(folder, numbers, answers, broken=None):
        names = {sha256(str(number)): number for number in numbers}
        sample_ids = np.array(list(names), dtype=object)

        def pixels(rows):
            for count, row in enumerate(rows):
                if broken is not None and count > 9 * broken:
                    raise KeyboardInterrupt
                yield np.full((SIZE, SIZE, 1), names[sample_ids[row]], np.uint8)

        packing.write(root / folder, sample_ids, (SIZE, SIZE, 1), pixels, answers)

    with memo(root / "memo") as answers:
        for numbers in sets:
            write("grown", numbers, answers)
        with contextlib.suppress(KeyboardInterrupt):
            write("grown", range(100, 200), answers, broken)
        write("grown", sets[-1], answers)
        write("at once", sets[-1], NOTHING_KNOWN)
    assert files(root / "grown") == files(root / "at once")


IDS = st.lists(st.integers(0, 10**6).map(lambda n: sha256(str(n))), unique=True, min_size=1, max_size=300)


@given(IDS, st.randoms())
def test_a_shard_follows_from_the_sample_ids_alone(names, random):
    def as_files(names):
        return {s.name: [names[row] for row in s.rows] for s in images.shards_of(np.array(names, object), 2**18)}

    found = as_files(names)
    random.shuffle(names)
    assert as_files(names) == found
    assert sorted(chain(*found.values())) == sorted(names)
    assert max(map(len, found.values())) <= 16
    for name, inside in found.items():
        bits = name.removesuffix(".npy").partition("-")[2]
        assert inside == sorted(inside)
        assert all(f"{int(one, 16):0256b}".startswith(bits) for one in inside)
        beside = [other for other in names if f"{int(other, 16):0256b}".startswith(bits[:-1])]
        assert not bits or len(beside) > 16, "two shards where one would do"


def test_images_read_from_shards_are_those_of_one_array(tmp_path, small_shards):
    corpus = Corpus(tmp_path)
    corpus.build(tmp_path, tmp_path / "memo")
    found = images.load(tmp_path / "images", corpus.index)
    whole = unpack(tmp_path / "images", corpus.index.rows)
    assert found.shape == whole.shape and len(list((tmp_path / "images").glob("*.npy"))) > 4
    rng = np.random.default_rng(0)
    for rows in (
        np.arange(COUNT),
        rng.integers(0, COUNT, 200),
        whole[:, 0, 0, 0] > 99,
        [],
        [3],
        slice(5, 30, 3),
        7,
        -1,
    ):
        np.testing.assert_array_equal(found[rows], whole[rows])
    with pytest.raises(IndexError):
        found[COUNT]


def test_a_change_writes_only_the_shards_of_what_changed(tmp_path, small_shards, monkeypatch):
    corpus = Corpus(tmp_path)
    known = tmp_path / "memo.sqlite"
    shards = corpus.build(tmp_path, known)
    decoded = Counter()
    for module in (looks, packing):
        monkeypatch.setattr(
            module,
            "map_images",
            lambda *a, plain=module.map_images, **k: (decoded.update(n=len(a[2])), plain(*a, **k))[1],
        )
    assert corpus.build(tmp_path, known) == 0 and decoded["n"] == 0
    corpus.change("rename", 5)
    corpus.change("relabel", 7)
    assert corpus.build(tmp_path, known) == 0 and decoded["n"] == 0
    corpus.add()
    assert 1 <= corpus.build(tmp_path, known) <= 3 < shards
    assert 1 <= decoded["n"] <= 1 + 13  # itself, and a shard of images or the two that it became


def test_what_is_kept_is_for_the_same_code_and_settings(tmp_path, monkeypatch):
    corpus = Corpus(tmp_path)
    assert corpus.build(tmp_path, tmp_path / "memo") == 1
    monkeypatch.setattr(packing, "code_key", lambda *a: b"other")
    assert corpus.build(tmp_path, tmp_path / "memo") == 1


@pytest.mark.parametrize("damage", ["cut", "text", "answers", "folder"])
def test_a_damaged_memo_costs_time_alone(tmp_path, damage, capsys):
    corpus, known = Corpus(tmp_path), tmp_path / "memo"
    corpus.build(tmp_path / "a", known)
    if damage == "answers":
        with sqlite3.connect(known) as table:
            table.execute("UPDATE answers SET answer = substr(answer, 1, 12) || zeroblob(length(answer) - 12)")
        table.close()
    elif damage == "folder":
        known.unlink()
        known.mkdir()
    else:
        known.write_bytes(b"no table" * 100 if damage == "text" else known.read_bytes()[:5000])
    corpus.add()
    for _ in range(2):
        corpus.build(tmp_path / "a", known)
    said = capsys.readouterr().err
    corpus.build(tmp_path / "b", tmp_path / "none")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert damage == "answers" or str(known) in said


def spoil(kind, folder):
    shard = sorted(folder.glob("*.npy"))[0]
    if kind == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif kind == "header":
        shard.write_bytes(b"x" + shard.read_bytes()[1:])
    elif kind == "gone":
        shard.unlink()
    elif kind == "folder":
        shard.unlink()
        shard.mkdir()
    elif kind == "manifest":
        (folder / images.MANIFEST).write_text('{"schema_version": 1}')
    else:
        text = (folder / images.MANIFEST).read_text()
        assert '"schema_version": 1' in text
        (folder / images.MANIFEST).write_text(text.replace('"schema_version": 1', '"schema_version": 2'))


@pytest.mark.parametrize("kind", ["cut", "header", "gone", "folder", "manifest", "version"])
def test_spoilt_shards_are_refused_by_name_and_made_anew(tmp_path, small_shards, kind):
    corpus = Corpus(tmp_path)
    corpus.build(tmp_path, tmp_path / "memo")
    whole = files(tmp_path / "images")
    spoil(kind, tmp_path / "images")
    with pytest.raises(CheckError) as error:
        images.load(tmp_path / "images", corpus.index)
    assert "images" in error.value.where and "dvc repro images" in error.value.hint
    corpus.build(tmp_path, tmp_path / "memo")
    assert files(tmp_path / "images") == whole


def test_shards_of_other_images_are_refused(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.build(tmp_path, tmp_path / "memo")
    corpus.add()
    rows = build(corpus.root, THREE, SETTINGS, 1).rows
    with pytest.raises(CheckError, match="not those of the index"):
        images.load(tmp_path / "images", index.Index(rows, {}))


def test_a_shard_that_is_cut_while_it_is_read_is_said(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.build(tmp_path, tmp_path / "memo")
    found = images.load(tmp_path / "images", corpus.index)
    (tmp_path / "images/images.npy").write_bytes(b"")
    with pytest.raises(CheckError, match="ends early"):
        found[3]


def test_what_lies_beside_the_shards_goes(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.build(tmp_path, tmp_path / "memo")
    whole = files(tmp_path / "images")
    (tmp_path / "images/images-01.npy").write_bytes(b"of an earlier build")
    (tmp_path / "images/more").mkdir()
    (tmp_path / "images/more/x").write_text("x")
    assert corpus.build(tmp_path, tmp_path / "memo") == 0
    assert files(tmp_path / "images") == whole


def test_only_images_that_a_teacher_has_not_answered_are_forwarded_and_the_bytes_are_of_a_full_export(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=7, in_chans=1)
    pixels = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 1), np.uint8)
    forwarded = []
    network.register_forward_hook(lambda network, images, logits: forwarded.append(len(logits)))

    def answers(rows, identity="a", known=tmp_path / "memo"):
        forwarded.clear()
        with memo(known) as answered:
            return answered_by(network, pixels[rows], identity, answered)

    answers(np.arange(590))
    assert forwarded == [256] * 3
    mixed = np.random.default_rng(1).permutation(600)
    found = answers(mixed)
    assert forwarded == [256]
    np.testing.assert_array_equal(found, answers(mixed, known=tmp_path / "none"))
    np.testing.assert_array_equal(found, answers(mixed))
    assert forwarded == []
    assert len(answers(mixed, "b")) == 600 and forwarded == [256] * 3
