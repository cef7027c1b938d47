"""Models made by somebody else: bundles, teachers and detectors that answer nonsense, never end, or reach for files."""

import csv
import io
import json
import math
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from conftest import CLASSES
from ferdistill import plain, workspace
from ferdistill.cli import cli
from ferdistill.distill import frozen
from ferdistill.distill.data import Split
from ferdistill.distill.inference import predict as logits_of
from ferdistill.errors import CheckError, FerdistillError, UsageError
from ferdistill.faces.detector import YUNET
from ferdistill.files import read_json, sha256_file, write_json
from ferdistill.params import FrozenTeacher, ImageParams, Params
from ferdistill.runtime import onnx_file, pictures, session
from ferdistill.runtime.classifier import Classifier
from ferdistill.runtime.onnx_file import require_modest
from ferdistill.stages import index as index_stage
from support.graphs import FLOAT, apart, classifier, endless, put_into, save, yunet

WEIGHTS = np.array([[0.02, -0.01, 0.005]], np.float32)
READOUT = helper.make_node("MatMul", ["mean", "weights"], ["logits"])


ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.new("L", (20, 30), 200).save(file)
    return file


@pytest.fixture
def hasty(monkeypatch):
    """A limit of time that a test can wait for."""
    monkeypatch.setattr(session, "RUN_SECONDS", 1.0)
    monkeypatch.setattr(session, "IMAGE_SECONDS", 0.0)


# ---- what a bundle may name ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["predict", "watch", "bench", "serve"])
def test_weights_beside_a_model_are_read_only_where_the_bundle_lists_them(bundle, picture, command, web):
    apart(classifier(bundle / "model.onnx", [READOUT], {"weights": WEIGHTS}), "weights.bin")
    put_into(bundle, bundle / "model.onnx")
    source = {"predict": picture, "watch": picture.parent}
    calls = {
        "bench": ["bench", bundle, "--rounds", 10],
        "serve": ["serve", "--bundle", bundle, "--port", 0],
    }
    result = run(*calls.get(command, [command, source.get(command), "--bundle", bundle]))
    assert isinstance(result.exception, CheckError) and "weights.bin" in result.exception.what


def test_an_exchange_of_listed_weights_is_found_out(bundle):
    apart(classifier(bundle / "model.onnx", [READOUT], {"weights": WEIGHTS}), "weights.bin")
    put_into(bundle, bundle / "model.onnx", files={"weights.bin": sha256_file(bundle / "weights.bin")})
    pixels = np.full((1, 8, 8, 1), 200, np.uint8)
    assert Classifier(bundle, device="cpu").predict(pixels).argmax() == 0
    (bundle / "weights.bin").write_bytes(WEIGHTS[:, [1, 0, 2]].tobytes())  # or the face is of another class
    with pytest.raises(CheckError, match="damaged, or belongs to another bundle"):
        Classifier(bundle, device="cpu")


@pytest.mark.parametrize("place", ["branch", "attribute", "function", "sparse"])
def test_a_file_is_found_wherever_in_the_model_it_is_named(tmp_path, place):
    file = classifier(tmp_path / "model.onnx", [READOUT], {"weights": WEIGHTS})
    model = onnx.load(file)
    hidden = onnx.TensorProto(data_location=TensorProto.EXTERNAL, data_type=FLOAT, dims=[3], name="hidden")
    entry = hidden.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    constant = helper.make_node("Constant", [], ["hidden"])
    constant.attribute.append(helper.make_attribute("value", hidden))
    if place == "branch":
        inside = helper.make_graph([constant], "inside", [], [helper.make_tensor_value_info("hidden", FLOAT, [3])])
        model.graph.node.append(helper.make_node("If", ["on"], ["y"], then_branch=inside, else_branch=inside))
    elif place == "attribute":
        model.graph.node.append(constant)
    elif place == "function":
        model.functions.append(helper.make_function("own", "F", [], ["hidden"], [constant], []))
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(hidden)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(CheckError, match=r"weights\.bin"):
        require_modest(file, beside=())
    require_modest(file, beside=["weights.bin"])


# ---- how long a model may take ------------------------------------------------------------------------------


def test_a_graph_of_fifty_thousand_nodes_is_refused_at_once(bundle):
    nodes = [helper.make_node("Sin", [f"x{n}" if n else "mean"], [f"x{n + 1}"]) for n in range(50_000)]
    nodes.append(helper.make_node("MatMul", ["x50000", "weights"], ["logits"]))
    put_into(bundle, classifier(bundle / "model.onnx", nodes, {"weights": WEIGHTS}))
    start = time.process_time()
    with pytest.raises(CheckError, match="too many nodes"):
        Classifier(bundle, device="cpu")
    assert time.process_time() - start < 5


def test_functions_that_call_functions_count_for_all_that_they_hold(tmp_path):
    """Thirty-two functions, each of which calls the one before twice: four thousand million nodes in four kilobytes."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own",
            f"f{n}",
            ["x"],
            ["y"],
            [
                helper.make_node(f"f{n - 1}" if n else "Sin", [a], [b], domain="own" if n else "")
                for a, b in (("x", "z"), ("z", "y"))
            ],
            opset,
        )
        for n in range(32)
    ]
    call = helper.make_node("f31", ["mean"], ["far"], domain="own")
    readout = helper.make_node("MatMul", ["far", "weights"], ["logits"])
    file = classifier(tmp_path / "model.onnx", [call, readout], {"weights": WEIGHTS}, functions)
    assert file.stat().st_size < 8_000
    with pytest.raises(CheckError, match="too many nodes"):
        require_modest(file, beside=())
    functions[0].node[1].op_type, functions[0].node[1].domain = "f31", "own"  # a circle
    file = classifier(tmp_path / "model.onnx", [call, readout], {"weights": WEIGHTS}, functions)
    with pytest.raises(CheckError, match="too many nodes"):
        require_modest(file, beside=())


@pytest.mark.parametrize("what", ["nodes", "attributes"])
def test_a_file_of_nothing_but_empty_messages_is_refused_at_once(tmp_path, monkeypatch, what):
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 200_000)
    node, attribute = b"\x0a\x00", b"\x2a\x00"  # of a graph, of a node
    graph = node * 10_000_000 if what == "nodes" else b"\x0a" + varint(20_000_000) + attribute * 10_000_000
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + varint(len(graph)) + graph)
    start = time.process_time()
    with pytest.raises(CheckError, match="too many nodes"):
        require_modest(tmp_path / "model.onnx", beside=())
    assert time.process_time() - start < 5


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@pytest.mark.parametrize("command", ["predict", "watch", "bench"])
def test_an_endless_loop_is_ended(bundle, picture, hasty, command, capfd):
    nodes, constants = endless()
    before, after = (
        helper.make_node("Identity", ["mean"], ["x"]),
        helper.make_node("MatMul", ["y", "weights"], ["logits"]),
    )
    put_into(bundle, classifier(bundle / "model.onnx", [before, *nodes, after], constants | {"weights": WEIGHTS}))
    source = {"predict": picture, "watch": picture.parent}.get(command)
    start = time.monotonic()
    result = run(*(["bench", bundle, "--rounds", 10] if command == "bench" else [command, source, "--bundle", bundle]))
    assert time.monotonic() - start < 30
    assert isinstance(result.exception, CheckError) and "does not end: stopped after 1 s" in result.exception.what
    assert "onnxruntime" not in capfd.readouterr().err


def test_a_loop_that_ends_is_run(bundle):
    nodes, constants = endless(3)
    before, after = (
        helper.make_node("Identity", ["mean"], ["x"]),
        helper.make_node("MatMul", ["y", "weights"], ["logits"]),
    )
    put_into(bundle, classifier(bundle / "model.onnx", [before, *nodes, after], constants | {"weights": WEIGHTS}))
    assert Classifier(bundle, device="cpu").predict(np.ones((1, 8, 8, 1), np.uint8)).shape == (1, 3)


# ---- what a bundle may answer -------------------------------------------------------------------------------


NONSENSE = {"NaN": math.nan, "infinity": math.inf, "12.97": 12.97}


@pytest.mark.parametrize("answer", NONSENSE)
@pytest.mark.parametrize("command", [["predict"], ["predict", "--csv"], ["watch"], ["watch", "--json", "-"]])
def test_what_is_no_distribution_is_never_printed(bundle, picture, command, answer):
    nodes = [
        helper.make_node("Mul", ["mean", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "answer"], ["probabilities"]),
    ]
    constants = {"nothing": np.zeros((1, 3), np.float32), "answer": np.array([[NONSENSE[answer], 0, 0]], np.float32)}
    model = classifier(bundle / "model.onnx", [*nodes, helper.make_node("Identity", ["mean"], ["logits"])], constants)
    loaded = onnx.load(model)
    del loaded.graph.node[-1]  # the softmax
    model.write_bytes(loaded.SerializeToString())
    put_into(bundle, model)
    source = picture if command[0] == "predict" else picture.parent
    result = run(command[0], source, *command[1:], "--bundle", bundle)
    assert isinstance(result.exception, CheckError) and "no probabilities" in result.exception.what
    assert "nan" not in result.stdout.lower() and "inf" not in result.stdout and "12.97" not in result.stdout


@pytest.mark.parametrize("shape", ["one number an image", "a column too many", "a row too many"])
def test_answers_of_another_shape_than_the_model_declares_are_refused(bundle, shape):
    odd = {
        "one number an image": [helper.make_node("ReduceSum", ["logits"], ["odd"], keepdims=0, noop_with_empty_axes=0)],
        "a column too many": [helper.make_node("Concat", ["logits", "logits"], ["odd"], axis=1)],
        "a row too many": [helper.make_node("Concat", ["logits", "logits"], ["odd"], axis=0)],
    }[shape]
    model = classifier(bundle / "model.onnx", [READOUT, *odd], {"weights": WEIGHTS})
    loaded = onnx.load(model)
    loaded.graph.node[-1].op_type, loaded.graph.node[-1].input[0] = "Identity", "odd"
    del loaded.graph.node[-1].attribute[:]
    model.write_bytes(loaded.SerializeToString())
    put_into(bundle, model)
    with pytest.raises(CheckError):
        Classifier(bundle, device="cpu").predict(np.ones((1, 8, 8, 1), np.uint8))


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "12.97"])
def test_predictions_of_no_distribution_are_not_scored(tmp_path, value):
    file = tmp_path / "predictions.csv"
    file.write_text(f"label,prob_a,prob_b\na,0.5,0.5\nb,{value},0.1\na,0.2,0.8\n")
    result = run("score", file, "--no-intervals")
    assert isinstance(result.exception, CheckError) and "row" in result.exception.where and result.stdout == ""


@pytest.mark.parametrize("size", [1025, 10**6, 10**18])
def test_an_absurd_image_size_is_refused_before_it_takes_memory(bundle, picture, size):
    write_json(bundle / "bundle.json", read_json(bundle / "bundle.json") | {"image": {"size": size, "channels": 1}})
    result = run("predict", picture, "--bundle", bundle)
    assert isinstance(result.exception, CheckError) and "image cannot be so" in result.exception.what


def test_a_bundle_that_says_nothing_of_its_training_is_not_measured(bundle):
    info = read_json(bundle / "bundle.json")
    write_json(bundle / "bundle.json", info | {"test": "good"})
    result = run("bench", bundle, "--rounds", 10)
    assert isinstance(result.exception, CheckError) and "macro_f1" in result.exception.expected


# ---- teachers of another program ----------------------------------------------------------------------------


OURS = ImageParams(size=48, channels=1)
SIDE = 16


def teacher(**changes):
    values = {
        "frozen": "pretrained/theirs.onnx", "model": None, "options": {}, "classes": CLASSES, "size": SIDE,
        "channels": 1, "mean": [0.5], "std": [0.5],
    }  # fmt: skip
    return FrozenTeacher.model_validate(values | changes)


def info(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def write_teacher(folder, batch="n", nodes=None, takes=None, gives=None, **constants):
    """An ONNX teacher whose logits are its mean pixel times a row of seven."""
    (folder / "pretrained").mkdir(exist_ok=True)
    nodes = nodes or [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "row"], ["y"]),
    ]
    takes = [info("x", [batch, 1, SIDE, SIDE])] if takes is None else takes
    gives = gives or [info("y", [batch, 7])]
    constants.setdefault("row", np.linspace(-3, 3, 7, dtype=np.float32)[None])
    return save(folder / "pretrained" / "theirs.onnx", nodes, takes, gives, constants)


def answers(folder, count=9, **changes):
    """What a frozen teacher gives of images that differ, through all that the stages call."""
    frozen.save(teacher(**changes), folder / "t", CLASSES, OURS)
    network, _ = frozen.load_teacher(folder / "t")
    pixels = np.random.default_rng(0).integers(0, 256, (count, 48, 48, 1), dtype=np.uint8)
    return logits_of(network, Split(pixels, np.arange(count), np.zeros(count, np.int64)))


@pytest.mark.parametrize("batch", [1, 2, 4, 64])
def test_a_teacher_with_a_fixed_batch_answers_as_one_with_a_free_batch(tmp_path, monkeypatch, batch):
    monkeypatch.chdir(tmp_path)
    write_teacher(tmp_path)
    free = answers(tmp_path)
    write_teacher(tmp_path, batch)
    fixed = answers(tmp_path)
    assert len(np.unique(free[:, 0])) == 9
    np.testing.assert_allclose(fixed, free, atol=1e-6)


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64)])
def test_a_teacher_of_another_precision_answers(tmp_path, monkeypatch, kind, dtype):
    monkeypatch.chdir(tmp_path)
    row = np.linspace(-3, 3, 7)[None]
    write_teacher(tmp_path)
    expected = answers(tmp_path)
    takes, gives = [info("x", ["n", 1, SIDE, SIDE], kind)], [info("y", ["n", 7], kind)]
    write_teacher(tmp_path, takes=takes, gives=gives, row=row.astype(dtype))
    np.testing.assert_allclose(answers(tmp_path), expected, atol=0.02)


def refused(folder, monkeypatch, **changes):
    """The error of a teacher that is not taken."""
    monkeypatch.chdir(folder)
    with pytest.raises(FerdistillError) as error:
        answers(folder, **changes)
    assert "theirs.onnx" in error.value.where or "frozen.onnx" in error.value.where
    assert error.value.expected and error.value.hint
    return str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_teacher_that_answers_no_numbers_is_named(tmp_path, monkeypatch, value):
    write_teacher(tmp_path, row=np.full((1, 7), value, np.float32))
    assert "NaN or infinity" in refused(tmp_path, monkeypatch)


ODD = {
    "a second input": {"takes": [info("x", ["n", 1, SIDE, SIDE]), info("z", ["n", 1])]},
    "no input": {"takes": [], "nodes": [helper.make_node("Identity", ["row"], ["y"])]},
    "images of another size": {"takes": [info("x", ["n", 1, 2 * SIDE, 2 * SIDE])]},
    "images of colour": {"takes": [info("x", ["n", 3, SIDE, SIDE])], "row": np.ones((3, 7), np.float32)},
    "rows of pixels": {
        "takes": [info("x", ["n", 1])],
        "nodes": [helper.make_node("MatMul", ["x", "row"], ["y"])],
    },
    "whole numbers": {
        "takes": [info("x", ["n", 1, SIDE, SIDE], TensorProto.INT64)],
        "nodes": [
            helper.make_node("Cast", ["x"], ["float"], to=FLOAT),
            helper.make_node("ReduceMean", ["float"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "row"], ["y"]),
        ],
    },
    "a sequence": {
        "nodes": [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "row"], ["z"]),
            helper.make_node("SequenceConstruct", ["z"], ["y"]),
        ],
        "gives": [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
    },
    "the class alone": {
        "nodes": [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "row"], ["z"]),
            helper.make_node("ArgMax", ["z"], ["y"], axis=1, keepdims=0),
        ],
        "gives": [info("y", ["n"], TensorProto.INT64)],
    },
    "feature maps": {"nodes": [helper.make_node("Identity", ["x"], ["y"])], "gives": [info("y", None)]},
    "the mean of all images": {
        "nodes": [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0, 2, 3], keepdims=0),
            helper.make_node("Reshape", ["mean", "shape"], ["one"]),
            helper.make_node("MatMul", ["one", "row"], ["y"]),
        ],
        "gives": [info("y", None)],
        "shape": np.array([1, 1]),
    },
}


@pytest.mark.parametrize("odd", ODD)
def test_a_teacher_of_another_form_is_named(tmp_path, monkeypatch, odd):
    write_teacher(tmp_path, **ODD[odd])
    assert "a frozen teacher" in refused(tmp_path, monkeypatch)


def test_a_teacher_that_keeps_its_weights_elsewhere_is_named(tmp_path, monkeypatch):
    apart(write_teacher(tmp_path), "weights.bin")
    assert "weights.bin" in refused(tmp_path, monkeypatch)


def test_a_teacher_that_never_ends_is_ended(tmp_path, monkeypatch, hasty):
    nodes, constants = endless()
    read = [
        helper.make_node("ReduceMean", ["y"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "row"], ["logits"]),
    ]
    monkeypatch.chdir(tmp_path)
    write_teacher(tmp_path, nodes=[*nodes, *read], gives=[info("logits", ["n", 7])], **constants)
    with pytest.raises(CheckError, match="does not end"):
        answers(tmp_path)


def test_a_teacher_on_the_cpu_prints_nothing(tmp_path, monkeypatch, capfd):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.chdir(tmp_path)
    write_teacher(tmp_path)
    answers(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_network_of_ours_whose_weights_are_no_numbers_is_named(tmp_path, monkeypatch):
    network = frozen.FrozenNetwork(lambda x: torch.full((len(x), 7), math.nan), teacher(), CLASSES, OURS)
    with pytest.raises(CheckError, match="NaN or infinity"):
        network(torch.zeros(2, 1, 48, 48))


# ---- pictures that take time --------------------------------------------------------------------------------


def jpeg(side, **options):
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(held, "JPEG", **options)
    return held.getvalue()


def scans(count, side=64):
    """A progressive JPEG with its last scan `count` times more."""
    whole = jpeg(side, progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


def with_exif(size):
    """A JPEG with so much EXIF, in as many segments as that takes."""
    segment = b"Exif\0\0" + bytes(65_527)
    plain = jpeg(64)
    return plain[:2] + (b"\xff\xe1" + (len(segment) + 2).to_bytes(2) + segment) * (size // len(segment) + 1) + plain[2:]


def png_with_exif(content):
    held = io.BytesIO()
    Image.new("RGB", (64, 64)).save(held, "PNG")
    whole = held.getvalue()
    body = b"eXIf" + b"II*\0\x08\0\0\0" + content
    at = whole.index(b"IDAT") - 4
    return whole[:at] + (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4) + whole[at:]


SLOW = {
    "600 scans": lambda: scans(600),
    "131 MB of EXIF in a JPEG": lambda: with_exif(131_000_000),
    "20 MB of EXIF in a PNG": lambda: png_with_exif(bytes(20_000_000)),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_picture_made_to_take_time_is_refused_and_the_others_go_on(tmp_path, bundle, kind):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(SLOW[kind]())
    Image.new("L", (20, 30), 200).save(tmp_path / "pictures" / "b.png")
    start = time.process_time()
    result = run("predict", tmp_path / "pictures", "--bundle", bundle)
    assert time.process_time() - start < 3
    bad, good = (json.loads(line) for line in result.stdout.splitlines())
    assert "more than" in bad["error"] and good["label"] and "1 of 2" in str(result.exception)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"progressive": True, "subsampling": 0}, {"restart_marker_rows": 1}],
)
def test_honest_pictures_are_read_as_before(tmp_path, options):
    extra = {"exif": bytes(60_000), "icc_profile": bytes(2_000_000), "comment": b"\xff\xda" * 200}
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg(640, **options, **extra) + b"\xff\xda" * 1000)  # as what some cameras append
    assert np.array_equal(pictures.read(file), np.asarray(Image.open(file)))


def test_a_jpeg_of_one_scan_a_colour_is_counted_too(tmp_path):
    """Baseline, but each colour by itself, which libjpeg also decodes scan by scan."""
    plain = jpeg(64)
    at = plain.index(b"\xff\xda")
    header = bytearray(plain[at : at + 14])
    one = b"\xff\xda" + (8).to_bytes(2) + b"\x01" + bytes(header[5:7]) + b"\0\x3f\0"
    (tmp_path / "a.jpg").write_bytes(plain[:at] + (one + plain[at + 14 : -2]) * 600 + plain[-2:])
    with pytest.raises(CheckError, match="more than 50 scans"):
        pictures.read(tmp_path / "a.jpg")


def test_a_file_of_bad_tags_prints_no_warnings(tmp_path):
    tags = b"".join(struct.pack("<HHII", 1000 + n, 7, 10**9, 100) for n in range(5000))
    file = tmp_path / "a.png"
    file.write_bytes(png_with_exif(struct.pack("<H", 5000) + tags + bytes(4)))
    code = f"from ferdistill.runtime import pictures; from pathlib import Path; pictures.read(Path({str(file)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


# ---- videos that name files, cameras that are none ----------------------------------------------------------


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A folder with a video, MPEG-4 in two containers, and a folder of playlists."""
    folder = tmp_path_factory.mktemp("secret")
    for name in ("clip.mp4", "clip.ts", "clip.avi", "clip.mkv", "clip.mov", "clip.flv", "clip.mpg", "clip.wmv"):
        codec = {"clip.flv": "FLV1", "clip.mpg": "PIM1", "clip.wmv": "WMV2"}.get(name, "mp4v")
        video = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
        for number in range(8):
            video.write(np.full((48, 64, 3), 20 * number, np.uint8))
        video.release()
    lists = folder / "lists"
    lists.mkdir()
    (lists / "part.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    (lists / "part1.png").write_bytes(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    (lists / "part2.png").write_bytes((lists / "part1.png").read_bytes())
    return folder


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{}\n#EXT-X-ENDLIST\n"
LISTS = {
    "x.m3u8": HLS.format("../clip.ts"),
    "renamed.mp4": HLS.format("../clip.ts"),
    "absolute.m3u8": "absolute",
    "inside.m3u8": HLS.format("part.mp4"),
    "remote.m3u8": HLS.format("http://127.0.0.1:1/x.ts"),
    "concat.mp4": "ffconcat version 1.0\nfile part.mp4\n",
    "concat.txt": "ffconcat version 1.0\nfile ../clip.mp4\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT1S"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>../clip.mp4</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("options", [None, "rtsp_transport;udp"])
@pytest.mark.parametrize("name", LISTS)
def test_a_playlist_opens_nothing(secret, bundle, monkeypatch, name, options):
    if options:
        monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
    text = HLS.format(secret / "clip.ts") if LISTS[name] == "absolute" else LISTS[name]
    (secret / "lists" / name).write_text(text)
    result = run("watch", secret / "lists" / name, "--bundle", bundle)
    assert isinstance(result.exception, CheckError) and "playlist" in result.exception.expected
    assert result.stdout == "" and os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS") == options
    result = run("watch", f"file://{secret / 'lists' / name}", "--bundle", bundle)
    assert isinstance(result.exception, UsageError) and result.stdout == ""


def test_a_numbered_picture_does_not_bring_its_neighbours(secret, bundle):
    result = run("watch", secret / "lists" / "part1.png", "--bundle", bundle)
    assert isinstance(result.exception, CheckError) and result.stdout == ""


@pytest.mark.parametrize("suffix", ["mp4", "ts", "avi", "mkv", "mov", "flv", "mpg", "wmv"])
def test_a_video_in_one_file_is_watched(secret, bundle, suffix):
    result = run("watch", secret / f"clip.{suffix}", "--bundle", bundle)
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 8


@pytest.mark.parametrize("number", ["9" * 20, "10000", "٣" * 20])
def test_a_camera_of_twenty_digits_is_a_wrong_call(bundle, number):
    result = run("watch", number, "--bundle", bundle)
    assert isinstance(result.exception, UsageError) and "no such source" in result.exception.what


# ---- names for a terminal and a spreadsheet -----------------------------------------------------------------


NAMES = [
    "=cmd|' -C calc'!A0.png",
    "+1.png",
    "-1.png",
    "@SUM(1).png",
    "'quoted.png",
    "＝1.png",
    "\x1b[31mred.png",
    "\x9b31mred.png",
    "line\nfeed.png",
    "right\u202eto left.png",
    "plain é 表.png",
]
FORBIDDEN = "\x1b\x9b\x07\u202e\x7f"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_no_name_is_a_formula_or_moves_the_cursor_in_what_predict_prints(tmp_path, bundle, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Image.new("L", (20, 30), 200).save(tmp_path / name)
    (tmp_path / os.fsdecode(b"not utf-8 \xff.png")).write_bytes(b"nothing")
    shown = run("predict", "*.png", "--csv", "--bundle", bundle).stdout
    assert not set(shown) & set(FORBIDDEN)
    rows = list(csv.DictReader(io.StringIO(shown)))
    cells = [cell for row in rows for cell in row.values()]
    assert len(rows) == len(NAMES) + 1 and not any(cell.startswith(plain.FORMULA[:-1]) for cell in cells)
    paths = [row["path"] for row in rows]
    assert "'=cmd|' -C calc'!A0.png" in paths and "plain é 表.png" in paths and "''quoted.png" in paths
    assert r"\x1b[31mred.png" in paths and r"line\nfeed.png" in paths
    printed = run("predict", "*.png", "--bundle", bundle).stdout
    assert not set(printed) & set(FORBIDDEN) and "表" in printed
    found = [json.loads(line)["path"] for line in printed.splitlines()]
    assert set(NAMES) < set(found) and os.fsdecode(b"not utf-8 \xff.png") in found  # JSON has them as they are


def test_no_class_moves_the_cursor_in_what_is_printed(tmp_path, bundle, picture):
    names = ["\x1b]0;title\x07happy", "=1+1", "\x9b2Jsad"]
    write_json(bundle / "bundle.json", read_json(bundle / "bundle.json") | {"classes": names})
    for option in ([], ["--csv"]):
        result = run("predict", picture, "--bundle", bundle, *option)
        assert result.exit_code == 0 and not set(result.stdout) & set(FORBIDDEN)
        if option:
            (row,) = csv.DictReader(io.StringIO(result.stdout))
            assert row["label"] == r"\x1b]0;title\x07happy"
        else:
            assert list(json.loads(result.stdout)["probabilities"]) == names
    table = tmp_path / "predictions.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label", *(f"logit_{name}" for name in names)])
        rows.writerows([[names[n % 3], *np.eye(3)[n % 3]] for n in range(9)])
    for option in ([], ["--json"]):
        result = run("score", table, "--no-intervals", *option)
        assert result.exception is None or isinstance(result.exception, FerdistillError)
        assert not set(result.stdout) & set(FORBIDDEN)


def test_what_was_left_out_of_an_index_is_no_formula(corpus, tmp_path, monkeypatch):
    evil = corpus / "=cmd|' -C calc'!A0" / "angry"
    evil.mkdir(parents=True)
    (evil / "@a.png").write_bytes(b"nothing")
    with (corpus / "corpus.yaml").open("a") as description:
        description.write(f"  - {{name: evil, adapter: folders, path: {json.dumps(evil.parent.name)}}}\n")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    raw["index"]["unreadable"] = "quarantine"
    settings = Params.model_validate(raw | {"corpus": "mine", "classes": ["angry", "happy", "neutral"]})
    index_stage.run(settings)
    rows = list(csv.DictReader(workspace.index_csv(settings.index_tag).with_suffix(".left_out.csv").open()))
    assert any(row["path"] == "'=cmd|' -C calc'!A0/angry/@a.png" for row in rows)
    assert not any(cell.startswith(plain.FORMULA[:-1]) for row in rows for cell in row.values())


def test_a_cell_gives_back_what_was_there():
    for text in (*NAMES, "", "a", "'", "''", "=", "é"):
        made = plain.cell(text)
        if not plain.CONTROL_OR_LINE_FEED.search(text):
            assert (made[1:] if made.startswith("'") else made) == text
    assert plain.cell(-1.5) == -1.5 and plain.cell(None) is None


# ---- detectors that are none --------------------------------------------------------------------------------


def small_outputs(path):
    """YuNet's names on outputs of one number, at which OpenCV itself crashes."""
    nodes, gives, constants = [helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0)], [], {}
    for name, (_, numbers) in YUNET.items():
        constants[f"{name}_bias"] = np.ones((1, 1, numbers), np.float32)
        nodes.append(helper.make_node("Add", ["mean", f"{name}_bias"], [name]))
        gives.append(info(name, [1, 1, numbers]))
    return save(path, nodes, [info("input", [1, 3, 320, 320])], gives, constants)


def fewer_cells(path):
    """A YuNet that gives every other cell."""
    model = onnx.load(yunet(path))
    for name in ("cls_8", "kps_32"):
        (node,) = (node for node in model.graph.node if node.output[0] == name)
        node.output[0] = f"{name}_all"
        kept = helper.make_node("AveragePool", [f"{name}_all"], [name], kernel_shape=[1], strides=[2])
        model.graph.node.insert(list(model.graph.node).index(node) + 1, kept)
    onnx.save(model, path)
    return path


DETECTORS = {
    "a bundle's model": lambda path: classifier(path, [READOUT], {"weights": WEIGHTS}),
    "outputs too small": small_outputs,
    "every other cell": fewer_cells,
    "boxes of no number": lambda path: yunet(path, (math.nan, 0.5, 0.7, 1.1)),
    "a box without end": lambda path: yunet(path, (0.5, 0.5, 100.0, 100.0)),
    "a box of a million pixels": lambda path: yunet(path, (0.5, 0.5, 12.0, 12.0)),
    "weights in another file": lambda path: apart(yunet(path), "weights.bin"),
    "no ONNX file": lambda path: path.write_bytes(b"PK\x03\x04garbage"),
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_another_network_as_the_detector_is_a_message(tmp_path, tone_bundle, kind):
    DETECTORS[kind](tmp_path / "detector.onnx")
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[64:96, 128:160] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = run("predict", tmp_path / "a.png", "--bundle", tone_bundle, "--detector", tmp_path / "detector.onnx")
    assert isinstance(result.exception, CheckError) and "detector.onnx" in result.exception.where
    assert result.stdout == ""


def test_an_honest_detector_is_taken(tmp_path, tone_bundle):
    yunet(tmp_path / "detector.onnx")
    pixels = np.zeros((250, 330, 3), np.uint8)
    pixels[64:96, 128:160] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = run("predict", tmp_path / "a.png", "--bundle", tone_bundle, "--detector", tmp_path / "detector.onnx")
    assert result.exit_code == 0 and len(json.loads(result.stdout)["faces"]) == 1
