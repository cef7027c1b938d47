"""The page of `ferdistill serve`, in Chromium with a fake camera: `make test-web` installs what this needs and runs it.

The model is a random linear map of all pixels, so one pixel out of place, or one grey level off, moves every
probability.
"""

import base64
import io
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from skimage import data

from conftest import CLASSES, face
from ferdistill.faces import server
from ferdistill.faces.detector import FullRange
from ferdistill.faces.head import draw_identity, draw_view, prototype, render
from ferdistill.files import sha256_file, write_json
from ferdistill.image_files import resize
from ferdistill.runtime.classifier import SCHEMA_VERSION, Classifier
from support.browser import launch

pytestmark = [pytest.mark.slow, pytest.mark.web]

SIZE = 48
TOLERANCE = 1e-4
FAKE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


def make_bundle(directory, channels=1, spread=10.0, **more):
    """A bundle whose logits are a random linear map of the pixels, spread over a few units."""
    directory.mkdir()
    count = SIZE * SIZE * channels
    weights = np.random.default_rng(channels).normal(0, spread / (64 * count**0.5), (count, len(CLASSES)))
    weights = weights.astype(np.float32)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, channels])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(CLASSES)])
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "centre"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [numpy_helper.from_array(np.float32(128), "centre"), numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph(nodes, "linear", [images], [probabilities], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, directory / "model.onnx")
    info = {
        "schema_version": SCHEMA_VERSION,
        "task": {
            "thing": "face",
            "things": "faces",
            "label": "expression",
            "labels": "expressions",
            "detector": "faces",
        },
        "classes": CLASSES,
        "image": {"size": SIZE, "channels": channels},
        "t_star": 1.25,
        "run_family": "6E",
        "run_mode": "kd",
        "seed": 1337,
        "architecture": "linear",
        "files": {"model.onnx": sha256_file(directory / "model.onnx")},
        "variants": {"fp32": "model.onnx"},
        "thresholds": {},
        "test": {"n": 801, "macro_f1": 0.5},
    }
    write_json(directory / "bundle.json", info | more)
    return directory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("grey") / "bundle")


@pytest.fixture
def serve():
    """A function that serves a bundle and gives the page's address."""
    started = []

    def start(bundle_dir):
        listening = server.listen(bundle_dir, 0)
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        started.append(listening)
        return listening.url

    yield start
    for listening in started:
        listening.shutdown()
        listening.server_close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A second of a dark frame, a second of a bright one, with a drawn face on both."""
    picture = drawn_face()[0]
    path = tmp_path_factory.mktemp("video") / "camera.mjpeg"
    with path.open("wb") as file:
        for gain in [0.5] * 30 + [1.0] * 30:
            picture.point(lambda level, gain=gain: level * gain).save(file, "JPEG", quality=95)
    return path


@pytest.fixture(scope="module")
def browser(playwright, video):
    found = launch(playwright, [*FAKE, f"--use-file-for-fake-video-capture={video}"])
    yield found
    found.close()


@pytest.fixture
def requests():
    """The address of every request of the pages opened, blob: and data: too."""
    return []


@pytest.fixture
def show(browser, serve, requests):
    """A function that opens the page on a bundle, ready."""
    contexts = []

    def open_page(bundle_dir, browser=browser, ready="[data-ready]", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
        context.on("request", lambda request: requests.append(request.url))
        context.on("response", lambda response: page.errors.append(response.url) if not response.ok else None)
        page.goto(serve(bundle_dir))
        page.wait_for_selector(f"body{ready}", state="attached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()


def png(pixels):
    """The bytes of a PNG, and what Playwright's file chooser takes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def choose(page, pixels, name="picture.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": png(pixels)})
    page.wait_for_selector(f"#picture[aria-label='{name}']")
    settle(page)


def settle(page):
    """Wait until the table has held still for some frames."""
    page.evaluate(
        """async () => {
          for (let still = 0, last = ""; still < 15; ) {
            await new Promise(requestAnimationFrame);
            const now = document.querySelector("#bars").innerHTML + document.querySelector("#speed").textContent;
            still = now === last ? still + 1 : 0;
            last = now;
          }
        }"""
    )


def probabilities(page):
    cells = page.eval_on_selector_all("#bars td:last-child", "cells => cells.map((cell) => cell.dataset.probability)")
    return np.array(cells, float) if None not in cells else None


def box_of(page):
    return [int(page.input_value(f"#{name}")) for name in ("left", "top", "side")]


def seen(page):
    """The face that the page shows as the model's, grey."""
    data = page.evaluate("document.querySelector('#seen').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))


def in_python(bundle_dir, pixels, left, top, side, channels=1):
    """Image and probabilities of the Python runtime, for the same square of the same picture."""
    return whole_in_python(bundle_dir, pixels[top : top + side, left : left + side], channels)


def whole_in_python(bundle_dir, pixels, channels=1):
    cut = resize(pixels, SIZE, channels)
    return cut, Classifier(bundle_dir, threads=1, device="cpu").predict(cut[None])[0]


def colours(seed, width, height):
    """A smooth colour picture."""
    planes = [face(seed + channel, max(width, height))[:height, :width] for channel in range(3)]
    return np.stack(planes, axis=-1)


def drawn_face(side=240):
    """A 640 x 480 picture with a rendered face on it, and the square that it fills."""
    rng = np.random.default_rng(3)
    identity, view = draw_identity(rng), draw_view(rng)
    drawn = render(identity, prototype("happy"), view, side)
    frame = np.full((480, 640, 3), 90, np.uint8)
    left, top = 300, 140
    frame[top : top + side, left : left + side] = drawn
    return Image.fromarray(frame), (left, top, side)


def test_the_page_asks_nobody_else(show, bundle, requests):
    page = show(bundle)
    page.click("[data-sample=happy]")
    settle(page)
    origin = page.url
    assert len(requests) > 15
    assert [url for url in requests if not url.startswith((origin, "data:"))] == []
    assert page.evaluate("crossOriginIsolated")
    assert page.errors == []
    facts = page.inner_text("#facts")
    for expected in ("6E", "kd", "1.250", ", ".join(CLASSES), "0.500 on 801", sha256_file(bundle / "model.onnx")[:16]):
        assert expected in facts
    # And it could not if it tried.
    assert (
        page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'sent', (error) => error.message)") == "Failed to fetch"
    )
    assert any("Content Security Policy" in line for line in page.errors)


def test_samples_give_the_python_runtimes_probabilities(show, bundle):
    page = show(bundle)
    for name in server.SAMPLES:
        page.click(f"[data-sample={name}]")
        page.wait_for_selector(f"#picture[aria-label='Drawn face, {name}']")
        settle(page)
        pixels = np.asarray(Image.open(server.WEB / "samples" / f"{name}.png").convert("RGB"))
        cut, expected = in_python(bundle, pixels, 0, 0, SIZE)
        assert np.array_equal(seen(page)[..., :1], cut)
        assert np.abs(probabilities(page) - expected).max() < TOLERANCE
        assert expected.max() - expected.min() > 0.1  # so the comparison can fail
        assert page.inner_text("#verdict").startswith(CLASSES[expected.argmax()])


@pytest.mark.parametrize("channels", [1, 3])
def test_any_picture_becomes_the_pixels_of_training(show, tmp_path, channels):
    """Grey and resize are Pillow's, bit for bit: smaller and larger, odd and even, wide and tall."""
    bundle = make_bundle(tmp_path / "bundle", channels)
    page = show(bundle)
    page.uncheck("#automatic")
    for number, (width, height) in enumerate([(48, 48), (49, 70), (301, 200), (640, 480), (20, 31), (1, 1), (97, 96)]):
        pixels = colours(10 * number, width, height)
        choose(page, pixels, f"{number}.png")
        left, top, side = box_of(page)
        assert (left, top, side) == ((width - side) // 2, (height - side) // 2, min(width, height))
        cut, expected = in_python(bundle, pixels, left, top, side, channels)
        assert np.array_equal(seen(page)[..., :channels], cut), (width, height)
        assert np.abs(probabilities(page) - expected).max() < TOLERANCE


def test_a_dropped_picture_is_read(show, bundle):
    page = show(bundle)
    page.uncheck("#automatic")
    pixels = colours(1, 64, 64)
    data = base64.b64encode(png(pixels)).decode()
    page.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
          document.querySelector("#stage").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        data,
    )
    page.wait_for_selector("#picture[aria-label='dropped.png']")
    settle(page)
    assert np.abs(probabilities(page) - in_python(bundle, pixels, 0, 0, 64)[1]).max() < TOLERANCE


def test_a_face_is_found_and_the_box_can_be_moved(show, bundle):
    page = show(bundle)
    picture, truth = drawn_face()
    pixels = np.asarray(picture)
    choose(page, pixels)
    found = box_of(page)
    assert overlap(found, truth) > 0.6, found
    assert np.abs(probabilities(page) - in_python(bundle, pixels, *found)[1]).max() < TOLERANCE

    frame = page.locator("#box").bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 60, middle[1] + 20, steps=4)
    page.mouse.up()
    settle(page)
    dragged = box_of(page)
    assert dragged[0] < found[0] and dragged[1] > found[1] and dragged[2] == found[2]
    assert not page.is_checked("#automatic")

    frame = page.locator("#box .handle").bounding_box()
    page.mouse.move(frame["x"] + 15, frame["y"] + 15)
    page.mouse.down()
    page.mouse.move(frame["x"] - 30, frame["y"] - 30, steps=4)
    page.mouse.up()
    page.focus("#top")
    page.keyboard.press("ArrowLeft")
    settle(page)
    resized = box_of(page)
    assert resized[2] < dragged[2] and resized[1] == dragged[1] - 1
    assert np.abs(probabilities(page) - in_python(bundle, pixels, *resized)[1]).max() < TOLERANCE

    page.check("#automatic")
    settle(page)
    assert box_of(page) == found


def test_the_page_crops_a_photograph_as_predict_does(show, tmp_path):
    margin = 0.25
    bundle = make_bundle(tmp_path / "bundle", crop={"margin": margin})
    page = show(bundle)
    pixels = data.astronaut()
    choose(page, pixels)
    (found,) = FullRange(threads=1)(pixels)
    left, top, side, _ = found.box
    expected = left - margin * side, top - margin * side, side * (1 + 2 * margin)
    # The two scale the picture down each in their own way.
    assert np.abs(np.subtract(box_of(page), expected)).max() < 4


def overlap(a, b):
    """Intersection over union of two squares."""
    sides = [max(min(a[i] + a[2], b[i] + b[2]) - max(a[i], b[i]), 0) for i in (0, 1)]
    return sides[0] * sides[1] / (a[2] ** 2 + b[2] ** 2 - sides[0] * sides[1])


def test_without_a_face_there_is_no_answer_until_the_box_is_placed(show, bundle):
    page = show(bundle)
    choose(page, np.full((200, 300, 3), 90, np.uint8))
    assert "No face found" in page.inner_text("#verdict")
    assert probabilities(page) is None
    page.focus("#left")
    page.keyboard.press("ArrowRight")
    settle(page)
    assert probabilities(page) is not None


def test_a_huge_picture_is_scaled_down(show, bundle):
    page = show(bundle)
    page.uncheck("#automatic")
    choose(page, np.full((2000, 8000, 3), 90, np.uint8))
    assert page.evaluate("[picture.width, picture.height]") == [4096, 1024]
    assert box_of(page) == [1536, 0, 1024]
    assert probabilities(page) is not None and page.errors == []


def test_a_file_that_is_no_picture_is_named(show, bundle):
    page = show(bundle)
    page.set_input_files("#file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"not a picture"})
    page.wait_for_selector("#problem:not([hidden])")
    assert "notes.png is not a picture" in page.inner_text("#problem")
    page.click("[data-sample=sad]")  # and it is over with the next picture
    settle(page)
    assert page.is_hidden("#problem") and probabilities(page) is not None


def test_the_camera_runs_and_stops(show, bundle):
    page = show(bundle)
    page.click("#camera")
    page.wait_for_function("() => document.querySelector('#speed').textContent.includes('FPS')", timeout=30_000)
    readings = set()
    for _ in range(40):
        now = probabilities(page)
        readings |= {None if now is None else tuple(now.round(3))}
        page.wait_for_timeout(100)
    assert len(readings - {None}) > 1  # the dark second and the bright one
    assert overlap(box_of(page), drawn_face()[1]) > 0.6
    assert page.inner_text("#camera") == "Stop camera"
    for _ in range(5):  # the readings of the last frames must not fall upon the sample
        page.click("[data-sample=angry]")
        page.wait_for_selector("#picture[aria-label='Drawn face, angry']")
        settle(page)
        assert page.inner_text("#camera") == "Start camera"
        pixels = np.asarray(Image.open(server.WEB / "samples" / "angry.png").convert("RGB"))
        assert np.abs(probabilities(page) - in_python(bundle, pixels, 0, 0, SIZE)[1]).max() < TOLERANCE
        assert "FPS" not in page.inner_text("#speed")
        page.click("#camera")
        page.wait_for_function("() => document.querySelector('#speed').textContent.includes('FPS')", timeout=30_000)
    page.click("#camera")
    settle(page)
    assert page.inner_text("#camera") == "Start camera"
    assert page.errors == []


def test_without_a_camera_the_page_says_so(playwright, show, bundle):
    with launch(playwright, []) as bare:
        page = show(bundle, browser=bare)
        page.click("#camera")
        page.wait_for_selector("#problem:not([hidden])")
        assert "camera" in page.inner_text("#problem")
        assert page.inner_text("#camera") == "Start camera"
        page.context.close()


def test_a_damaged_model_is_refused(show, tmp_path):
    """The command refuses it too, at its start; here it is damaged while the server runs."""
    bundle = make_bundle(tmp_path / "bundle")
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    page = show(bundle, ready="")
    page.wait_for_selector("#problem:not([hidden])")
    assert "damaged" in page.inner_text("#problem")
    assert page.is_disabled("#camera") and page.is_disabled("#file") and not page.locator("[data-sample]").count()


def test_a_model_that_answers_no_probabilities_is_refused(show, tmp_path):
    page = show(make_bundle(tmp_path / "bundle", spread=np.nan), ready="")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no probabilities" in page.inner_text("#problem")


@pytest.mark.parametrize("task", [None, {"thing": "card", "things": "cards", "label": "suit", "labels": "suits"}])
def test_a_bundle_without_a_detector_takes_whole_pictures_and_names_no_face(show, requests, tmp_path, task):
    more = {"classes": list("abcdefg"), "task": task or {}}
    bundle = make_bundle(tmp_path / "bundle", **more)
    page = show(bundle)
    pixels = colours(7, 301, 200)
    choose(page, pixels, "1.png")
    cut, expected = whole_in_python(bundle, pixels)
    assert np.array_equal(seen(page)[..., :1], cut)
    assert np.abs(probabilities(page) - expected).max() < TOLERANCE
    page.focus("#left")
    page.keyboard.press("ArrowRight")
    settle(page)
    box = box_of(page)
    assert box == [1, 0, 200]
    assert np.abs(probabilities(page) - in_python(bundle, pixels, *box)[1]).max() < TOLERANCE
    shown = page.inner_text("body").lower() + page.title().lower()
    assert ("suits" if task else "classes") in shown
    shown += page.evaluate("document.body.outerHTML.replace(/<template.*<.template>/s, '')").lower()
    for word in ("face", "expression", "emotion", "sample", "happy", "detector"):
        assert word not in shown, word
    assert not [url for url in requests if "detector" in url or "full_range" in url or "samples" in url]
    assert page.errors == []


def test_a_bundle_of_another_version_is_refused(show, tmp_path):
    page = show(make_bundle(tmp_path / "bundle", schema_version=99), ready="")
    page.wait_for_selector("#problem:not([hidden])")
    assert "schema version 99" in page.inner_text("#problem")


@pytest.mark.parametrize(("confidence", "abstains"), [(0.999, True), (0.01, False)])
def test_it_abstains_below_the_threshold(show, tmp_path, confidence, abstains):
    page = show(make_bundle(tmp_path / "bundle", thresholds={"confidence": confidence}))
    assert page.locator("#bars .threshold").count() == len(CLASSES)
    page.click("[data-sample=fear]")
    settle(page)
    assert page.inner_text("#verdict").startswith("Abstains") == abstains
    assert page.inner_text("#spoken").startswith("Abstains") == abstains


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_bars_a_reader_or_a_phone(show, bundle, scheme, width):
    """axe-core finds no fault (WCAG 2.2 A and AA: names, roles, contrast, target size), and nothing is cut off."""
    page = show(bundle, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.keyboard.press("Tab")
    focused = [page.evaluate("document.activeElement.id || document.activeElement.dataset.sample")]
    for _ in range(12):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.sample"))
    assert focused[:9] == ["camera", "file", *server.SAMPLES]
    page.focus("[data-sample=surprise]")
    page.keyboard.press("Enter")
    settle(page)
    assert page.inner_text("#spoken") == page.inner_text("#verdict") != ""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    axe = server.WEB.parents[3] / "web" / "node_modules" / "axe-core" / "axe.min.js"
    page.evaluate(axe.read_text(encoding="utf-8"))
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    report = page.evaluate("(tags) => axe.run({ runOnly: tags })", tags)
    assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in report["violations"]] == []
    assert len(report["passes"]) > 15
