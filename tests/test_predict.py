"""`ferdistill predict`: pictures in every state, known probabilities, exit codes."""

import csv
import io
import json
import shutil
import struct
import sys
import zlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from conftest import TONES, tone_probabilities
from ferdistill.cli import app, cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.faces import detector
from ferdistill.faces.detector import Cascade, iou
from ferdistill.files import read_json, sha256_file, write_json
from ferdistill.runtime import pictures

FACE = (177.0, 66.0, 97.0, 97.0)  # of scikit-image's astronaut


@pytest.fixture(autouse=True)
def unfetched(monkeypatch, tmp_path):
    """No full-range detector, whatever was fetched here, so that all find the same."""
    monkeypatch.setattr(detector, "FULL_RANGE", tmp_path / "absent.onnx")


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


def predict(*arguments):
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)])


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_pictures_of_every_kind_become_upright_rgb(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = rgb[..., 0]
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([rgb, grey])).save(tmp_path / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=turned)
    for name in ("rgb", "rgba"):
        assert np.array_equal(pictures.read(tmp_path / f"{name}.png"), rgb)
    for name in ("grey", "deep"):
        assert np.array_equal(pictures.read(tmp_path / f"{name}.png"), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(pictures.read(tmp_path / "turned.png"), np.rot90(rgb, -1))


def write_header(path, width, height):
    """A PNG that announces a size and holds next to nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 100))]
    body = b"".join(
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text)) for kind, text in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(8000, 8000, "at most 50,000,000"), (60_000, 60_000, "whole JPEG|at most"), (1, 1, "at least 8 pixels")],
)
def test_pictures_of_impossible_sizes_are_refused_by_their_header(tmp_path, width, height, expected):
    if width == 1:
        Image.new("RGB", (1, 1)).save(tmp_path / "x.png")
    else:
        write_header(tmp_path / "x.png", width, height)
    with pytest.raises(CheckError, match=expected) as refused:
        pictures.read(tmp_path / "x.png")
    assert "x.png" in refused.value.where and "corpus" not in str(refused.value)


@pytest.mark.parametrize("whole", [b"", b"not a picture", None])
def test_what_is_no_whole_picture_is_refused(tmp_path, whole, astronaut):
    file = tmp_path / "x.png"
    if whole is None:
        Image.fromarray(astronaut).save(file)
        whole = file.read_bytes()[:20_000]
    file.write_bytes(whole)
    with pytest.raises(CheckError, match="cannot be decoded"):
        pictures.read(file)


def test_whole_pictures_have_the_models_probabilities(tmp_path, tone_bundle):
    for tone in (30, 130, 220):
        Image.new("L", (20, 30), tone).save(tmp_path / f"{tone:03}.png")
    result = predict(tmp_path, "--whole", "--bundle", tone_bundle)
    assert result.exit_code == 0
    reports = lines(result)
    assert [report["path"].rsplit("/", 1)[1] for report in reports] == ["030.png", "130.png", "220.png"]
    found = [report["faces"][0] for report in reports]
    assert [face["label"] for face in found] == ["dark", None, "light"]  # the bundle's confidence is 0.6
    assert found[0]["box"] == [0, 0, 20, 30]
    expected = tone_probabilities([30, 130, 220])
    assert np.allclose([list(face["probabilities"].values()) for face in found], expected, atol=1e-6)
    assert list(found[0]["probabilities"]) == TONES
    sure = predict(tmp_path / "130.png", "--whole", "--bundle", tone_bundle, "--confidence", "0.1")
    assert lines(sure)[0]["faces"][0]["label"] == "light"


def test_faces_are_found_with_their_boxes_and_tilts(tmp_path, tone_bundle, astronaut):
    Image.fromarray(astronaut).save(tmp_path / "one.png")
    head = astronaut[:230, 110:340]
    Image.fromarray(np.tile(head, (2, 2, 1))).save(tmp_path / "four.png")
    Image.fromarray(data.coffee()).save(tmp_path / "none.png")
    result = predict(tmp_path / "one.png", tmp_path / "four.png", tmp_path / "none.png", "--bundle", tone_bundle)
    one, four, none = lines(result)
    assert result.exit_code == 0 and none["faces"] == []
    assert len(one["faces"]) == 1 and iou(tuple(one["faces"][0]["box"]), FACE) > 0.7
    places = [(x, y) for x in (67, 297) for y in (66, 296)]
    assert len(four["faces"]) == 4
    for x, y in places:
        assert sum(iou(tuple(face["box"]), (x, y, 97, 97)) > 0.7 for face in four["faces"]) == 1

    # Pillow turns against the clock.
    turned = np.asarray(Image.fromarray(astronaut).rotate(-35, center=(225.5, 114.5)))
    assert Cascade()(turned) == []
    (face,) = Cascade(thorough=True)(turned)
    assert face.tilt in (20, 40) and iou(face.box, FACE) > 0.6


def test_the_margin_is_the_bundles_unless_one_is_given(tmp_path, tone_bundle, astronaut):
    Image.fromarray(astronaut).save(tmp_path / "one.png")
    bundle = tmp_path / "bundle"
    shutil.copytree(tone_bundle, bundle)
    write_json(bundle / "bundle.json", read_json(bundle / "bundle.json") | {"crop": {"margin": 0.6}})
    wide = lines(predict(tmp_path / "one.png", "--bundle", bundle))
    assert wide == lines(predict(tmp_path / "one.png", "--bundle", tone_bundle, "--margin", "0.6"))
    assert wide != lines(predict(tmp_path / "one.png", "--bundle", tone_bundle))


@pytest.mark.parametrize("option", [[], ["--csv"]])
def test_a_bad_picture_is_named_and_the_others_go_on(tmp_path, tone_bundle, option, monkeypatch, capsys):
    Image.new("L", (20, 20), 10).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    Image.new("L", (20, 20), 250).save(tmp_path / "c.png")
    pattern = str(tmp_path / "*.png")
    command = ["ferdistill", "predict", pattern, "--whole", "--bundle", str(tone_bundle), *option]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        app()
    shown = capsys.readouterr()
    assert stop.value.code == 1 and "1 of 3 pictures" in shown.err
    if not option:
        a, b, c = map(json.loads, shown.out.splitlines())
        assert (a["faces"][0]["label"], b["faces"], c["faces"][0]["label"]) == ("dark", [], "light")
        assert "not an image" in b["error"]
        return
    a, b, c = csv.DictReader(io.StringIO(shown.out))
    assert (a["label"], b["label"], c["label"]) == ("dark", "", "light")
    assert "not an image" in b["error"] and a["error"] == ""
    assert float(c["prob_light"]) == pytest.approx(tone_probabilities([250])[0, 2], abs=1e-6)


@pytest.mark.parametrize("source", ["nowhere.png", "*.png", "."])
def test_no_picture_is_a_wrong_call(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no picture there"):
        pictures.find([source])


def test_a_missing_bundle_is_a_wrong_call(tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    result = predict(tmp_path / "a.png", "--bundle", tmp_path / "nowhere")
    assert isinstance(result.exception, UsageError) and result.exception.exit_code == 2


def plain(tone_bundle, directory, **task):
    """The bundle of tones as one of another task, or of none."""
    shutil.copytree(tone_bundle, directory)
    info = read_json(directory / "bundle.json")
    del info["task"]
    write_json(directory / "bundle.json", info | ({"task": task} if task else {}))
    return directory


CARDS = {"thing": "card", "things": "cards", "label": "suit", "labels": "suits", "detector": None}


@pytest.mark.parametrize("task", [{}, CARDS])
def test_a_bundle_without_a_detector_classifies_whole_pictures(tmp_path, tone_bundle, astronaut, task):
    bundle = plain(tone_bundle, tmp_path / "bundle", **task)
    Image.new("L", (20, 30), 30).save(tmp_path / "dark.png")
    Image.fromarray(astronaut).save(tmp_path / "face.png")
    (tmp_path / "none.png").write_bytes(b"nothing")
    command = [tmp_path / "dark.png", tmp_path / "face.png", tmp_path / "none.png", "--bundle", bundle]
    result = predict(*command)
    dark, face, none = lines(result)
    assert isinstance(result.exception, CheckError) and "1 of 3" in str(result.exception)
    assert list(dark) == ["path", "label", "confidence", "probabilities"] == list(face)
    assert (dark["label"], list(dark["probabilities"])) == ("dark", TONES)
    assert np.allclose(list(dark["probabilities"].values()), tone_probabilities([30]), atol=1e-6)
    assert list(none) == ["path", "error"]
    table = list(csv.DictReader(io.StringIO(predict(*command, "--csv").stdout)))
    assert list(table[0]) == ["path", "label", "confidence", *(f"prob_{tone}" for tone in TONES), "error"]
    assert [row["label"] for row in table] == [dark["label"], face["label"] or "", ""]
    assert "not an image" in table[2]["error"]


def test_opencv_is_needed_by_a_detector_alone(tmp_path, tone_bundle, monkeypatch):
    Image.new("L", (20, 30), 30).save(tmp_path / "dark.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    bundle = plain(tone_bundle, tmp_path / "bundle")
    assert lines(predict(tmp_path / "dark.png", "--bundle", bundle))[0]["label"] == "dark"
    result = predict(tmp_path / "dark.png", "--bundle", tone_bundle)
    assert isinstance(result.exception, ModuleNotFoundError) and result.exception.name == "cv2"


def test_a_detector_is_not_put_before_a_bundle_that_wants_none(tmp_path, tone_bundle):
    Image.new("L", (20, 30)).save(tmp_path / "a.png")
    for command in ("predict", "watch"):
        bundle = plain(tone_bundle, tmp_path / command, **CARDS)
        source = tmp_path / "a.png" if command == "predict" else tmp_path
        arguments = [command, str(source), "--bundle", str(bundle), "--detector", "haar"]
        result = CliRunner().invoke(cli, arguments)
        assert isinstance(result.exception, UsageError) and "whole cards" in str(result.exception)
        info = read_json(bundle / "bundle.json")
        write_json(bundle / "bundle.json", info | {"task": CARDS | {"detector": "spades"}})
        result = CliRunner().invoke(cli, arguments)
        assert isinstance(result.exception, UsageError) and "spades" in str(result.exception)


@pytest.mark.parametrize("answer", [[np.nan, 0.5, 0.5], [np.inf, 0, 0], [12.97, -11.97, 0], [0.4, 0.4, 0.4]])
@pytest.mark.parametrize("command", ["predict", "watch"])
def test_a_model_that_answers_no_probabilities_is_refused(tmp_path, tone_bundle, command, answer):
    bundle = plain(tone_bundle, tmp_path / "bundle")
    write_constant(bundle, answer)
    (tmp_path / "pictures").mkdir()
    Image.new("L", (20, 30)).save(tmp_path / "pictures" / "a.png")
    result = CliRunner().invoke(cli, [command, str(tmp_path / "pictures"), "--bundle", str(bundle)])
    assert isinstance(result.exception, CheckError) and result.stdout == ""
    assert "model.onnx" in result.exception.where and "no probabilities" in result.exception.what
    write_constant(bundle, [0.5, 0.5, 0.0])
    assert CliRunner().invoke(cli, [command, str(tmp_path / "pictures"), "--bundle", str(bundle)]).exit_code == 0


def write_constant(bundle, answer):
    """Put a model in a bundle that gives the same row for every image."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "answer"], ["probabilities"]),
    ]
    constants = [
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.array([answer], np.float32), "answer"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 1])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(answer)])
    graph = helper.make_graph(nodes, "constant", [images], [probabilities], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), bundle / "model.onnx"
    )
    info = read_json(bundle / "bundle.json")
    write_json(bundle / "bundle.json", info | {"files": {"model.onnx": sha256_file(bundle / "model.onnx")}})
