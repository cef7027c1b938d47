"""`ferdistill watch`: detection, tracks, labels that hold, cameras that are never late, files that are always whole."""

import importlib.util
import json
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data
from typer.testing import CliRunner

from conftest import TONES, tone_probabilities
from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.faces import detector
from ferdistill.faces.camera import Frame, Writer, latest, open_frames, open_writer
from ferdistill.faces.conversion import Graph
from ferdistill.faces.detector import Cascade, Face, FullRange, YuNet, crop, iou, open_detector, whole
from ferdistill.faces.tracker import Smoothing, Tracker, steady_label
from ferdistill.faces.watch import annotate, record, watch
from ferdistill.files import read_json, write_json
from ferdistill.runtime.classifier import Classifier
from support.graphs import yunet

cv2.setNumThreads(1)
FACE = (177.0, 66.0, 97.0, 97.0)  # of scikit-image's astronaut


@pytest.fixture(autouse=True)
def unfetched(monkeypatch, tmp_path):
    """No full-range detector, whatever was fetched here, so that all find the same."""
    monkeypatch.setattr(detector, "FULL_RANGE", tmp_path / "absent.onnx")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_watch", "benchmarks/watch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    return CliRunner().invoke(cli, ["watch", *map(str, arguments)])


def write_video(path, count, shape=(120, 160), fps=25.0):
    """Frames whose grey level tells their number."""
    with open_writer(path, fps, live=False) as video:
        for number in range(count):
            video.write(Frame(number, number / fps, None), np.full((*shape, 3), 4 * (number % 60), np.uint8))


def length(path):
    with open_frames(str(path)) as frames:
        return sum(1 for _ in frames)


def test_overlap_of_boxes():
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (2, 2, 5, 5)) == pytest.approx(0.25)
    assert iou((0, 0, 10, 10), (10, 0, 10, 10)) == 0


def test_an_upright_crop_is_a_copy_with_its_margin():
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert np.array_equal(crop(frame, Face((20, 10, 30, 30)), 0.0), frame[10:40, 20:50])
    assert np.array_equal(crop(frame, Face((20, 10, 30, 30)), 0.1), frame[7:43, 17:53])
    over_the_edge = crop(frame, Face((-10, 10, 30, 30)), 0.0)
    assert np.array_equal(over_the_edge[:, 10:], frame[10:40, :20])
    assert np.array_equal(over_the_edge[:, :10], np.repeat(frame[10:40, :1], 10, axis=1))


def test_a_tilted_crop_is_upright():
    astronaut = data.astronaut()
    # The head turned clockwise by 30 degrees; OpenCV's angles go against the clock.
    move = cv2.getRotationMatrix2D((225.5, 114.5), -30, 1.0)
    turned = cv2.warpAffine(astronaut, move, (512, 512))
    expected = crop(astronaut, Face(FACE), 0.0).astype(float)
    upright, askew = (crop(turned, Face(FACE, tilt), 0.0).astype(float) for tilt in (30, 0))
    assert np.abs(upright - expected).mean() < 6 < 20 < np.abs(askew - expected).mean()


def test_a_tilted_face_is_followed_and_a_vanished_one_is_not():
    astronaut = data.astronaut()
    move = cv2.getRotationMatrix2D((225.5, 114.5), -30, 1.0)
    turned = cv2.warpAffine(astronaut, move, (512, 512))[:300, 60:400]
    last = Face((117.0, 66.0, 97.0, 97.0), 20.0)
    detect = Cascade(0.2)
    assert detect(turned) == []
    (face,) = detect(turned, [last])
    assert face.tilt in (20, 40) and iou(face.box, last.box) > 0.6
    assert detect(data.coffee()[:300, :340], [last]) == []


def test_yunet_gives_square_boxes_and_tilts(tmp_path):
    yunet(tmp_path / "yunet.onnx")
    detect = YuNet(tmp_path / "yunet.onnx")
    frame = np.zeros((240, 320, 3), np.uint8)
    assert detect(frame) == []
    frame[64:96, 128:160] = 255
    (face,) = detect(frame)
    # 64 wide and 96 high around the middle of the cell, made square.
    assert face.box == pytest.approx((144 - 48, 80 - 48, 96, 96), abs=0.1)
    assert face.tilt == pytest.approx(math.degrees(math.atan2(0.2, 0.5)), abs=0.1)


def full_range_model(path, names=("boxes", "scores")):
    """A network with the outputs of the full-range detector that sees a face at every bright 4 x 4 cell."""
    graph = Graph()
    grey = np.full((4, 4, 3, 1), 1 / 48, np.float32)
    level = graph.convolve("images", grey, None, 4, same=False)
    # The middle, 2 right of the anchor and 3 below; 20 wide, 30 high; the right eye, and the left one at 45 degrees.
    offsets = np.array([2, 3, 20, 30, -5, -5, 5, 5, *[0] * 8], np.float32)
    boxes = graph.convolve(level, np.zeros((1, 1, 1, 16), np.float32), offsets, 1, same=False)
    scores = graph.convolve(level, np.full((1, 1, 1, 1), 10, np.float32), None, 1, same=False)
    outputs = {}
    for name, node, wide in zip(names, (boxes, scores), (16, 1), strict=True):
        last = graph.node("Transpose", node, perm=[0, 2, 3, 1])
        outputs[name] = (graph.node("Reshape", last, graph.constant(np.array([0, -1, wide]))), ["n", 2304, wide])
    path.write_bytes(graph.finish({"images": ["n", 3, 192, 192]}, outputs))


def test_the_full_range_detector_gives_boxes_and_tilts(tmp_path):
    full_range_model(tmp_path / "full_range.onnx")
    detect = FullRange(tmp_path / "full_range.onnx")
    frame = np.zeros((200, 384, 3), np.uint8)  # at half its size, 46 below the top of the square
    assert detect(frame) == []
    frame[100:108, 160:168] = 255  # the cell of row 24 and column 20 there, whose middle is (82, 98)
    (face,) = detect(frame)
    assert face.tilt == pytest.approx(45)
    assert face.box == pytest.approx((2 * (82 + 2 - 15), 2 * (98 + 3 - 46 - 15), 60, 60))
    frame[100:108, 168:176] = 255
    assert len(detect(frame)) == 1  # two cells see one face
    frame[:8, :8] = 255
    assert len(detect(frame)) == 2


def test_the_full_range_detector_is_taken_where_it_was_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "FULL_RANGE", tmp_path / "full_range.onnx")
    assert isinstance(open_detector(None, False, 0.1, thorough=False), Cascade)
    with pytest.raises(UsageError, match="ferdistill detector fetch"):
        open_detector("full_range", False, 0.1, thorough=False)
    full_range_model(tmp_path / "full_range.onnx")
    assert isinstance(open_detector(None, False, 0.1, thorough=False, threads=1), FullRange)
    assert isinstance(open_detector("haar", False, 0.1, thorough=False), Cascade)
    full_range_model(tmp_path / "full_range.onnx", names=("a", "b"))
    with pytest.raises(CheckError, match="not the full-range detector"):
        open_detector(None, False, 0.1, thorough=False)


def test_a_wrong_detector_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such detector"):
        YuNet(tmp_path / "nowhere.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckError, match="cannot load the model"):
        YuNet(tmp_path / "bad.onnx")


def test_tracks_go_on_while_boxes_overlap():
    tracker = Tracker(patience=0.5)
    even = np.full((2, 3), 1 / 3)
    left, right = Face((0, 0, 100, 100)), Face((300, 0, 100, 100))
    assert [track.number for track in tracker.update(0.0, [left, right], even)] == [1, 2]
    # Both move, and come in another order.
    moved = [Face((330, 10, 100, 100)), Face((40, 0, 100, 100))]
    assert [track.number for track in tracker.update(0.1, moved, even)] == [2, 1]
    # One is away for less than the patience, then the other for more.
    assert [track.number for track in tracker.update(0.4, moved[1:], even)] == [1]
    assert [track.number for track in tracker.update(0.6, moved, even)] == [2, 1]
    assert [track.number for track in tracker.update(1.2, moved[:1], even)] == [3]
    # Of two candidates the nearer wins; the other is new.
    near, far = Face((335, 10, 100, 100)), Face((380, 10, 100, 100))
    assert [track.number for track in tracker.update(1.3, [far, near], even)] == [4, 3]


@pytest.mark.parametrize("fps", [5, 30, 200])
def test_smoothing_answers_a_step_alike_at_any_frame_rate(fps):
    tracker = Tracker(Smoothing(seconds=0.3))
    face = Face((0, 0, 50, 50))
    tracker.update(0.0, [face], np.array([[1.0, 0.0]]))
    for step in range(1, fps + 1):
        (track,) = tracker.update(step / fps, [face], np.array([[0.0, 1.0]]))
    assert track.smoothed == pytest.approx([math.exp(-1 / 0.3), 1 - math.exp(-1 / 0.3)])
    assert track.probabilities.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("before", "probabilities", "after"),
    [
        (None, [0.55, 0.45], 0),
        (None, [0.45, 0.40], None),  # not confident enough to begin
        (0, [0.45, 0.40], 0),  # nor too little to go on
        (0, [0.39, 0.35], None),
        (0, [0.47, 0.53], 0),  # the lead is too small
        (0, [0.35, 0.55], 1),
        (0, [0.30, 0.45], None),  # takes over, but is not confident enough
    ],
)
def test_labels_hold_until_another_leads(before, probabilities, after):
    assert steady_label(before, np.array(probabilities), Smoothing(confidence=0.5, hysteresis=0.1)) == after


def test_noise_flips_labels_less_with_smoothing_and_hysteresis():
    rng = np.random.default_rng(0)
    rows = tone_probabilities(255 - 120 * (np.arange(300) // 100) + rng.normal(0, 25, 300))

    def changes(smoothing):
        tracker = Tracker(smoothing)
        labels = [tracker.update(i / 25, [Face((0, 0, 9, 9))], rows[i : i + 1])[0].label for i in range(300)]
        return sum(one != other for one, other in pairwise(labels)), labels[-1]

    raw, steady = changes(Smoothing(0, 0.5, 0)), changes(Smoothing(0.3, 0.5, 0.1))
    assert raw[0] > 5 * steady[0] and steady[0] >= 2
    assert steady[1] == TONES.index("dark")


def test_the_pipeline_takes_any_frames_and_any_detector(tone_bundle):
    """No camera, no video: what is bright at the left and dark at the right gets its tracks and labels."""
    frame = np.full((60, 120, 3), 128, np.uint8)
    frame[20:40, 10:30], frame[20:40, 80:100] = 250, 5
    frames = (Frame(number, number / 25, frame) for number in range(4))
    known = []

    def detect(pixels, near):
        known.append(len(near))
        return [Face((10.0, 20.0, 20.0, 20.0)), Face((80.0, 20.0, 20.0, 20.0))]

    classifier = Classifier(tone_bundle, 1, "cpu")
    lines = [record(seen, classifier) for seen in watch(frames, classifier, detect, margin=0.0)]
    assert known == [0, 2, 2, 2]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3] and lines[3]["time"] == 0.12
    for line in lines:
        assert [(face["track"], face["label"]) for face in line["faces"]] == [(1, "light"), (2, "dark")]
        assert list(line["faces"][0]["smoothed"]) == TONES
    expected = tone_probabilities([250, 5])
    assert np.allclose([list(face["probabilities"].values()) for face in lines[0]["faces"]], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (9, 200), (480, 640)])
def test_frames_of_any_size_can_be_watched_and_drawn_on(tone_bundle, shape):
    classifier = Classifier(tone_bundle, 1, "cpu")
    frame = Frame(0, 0.0, np.full((*shape, 3), 250, np.uint8))
    assert [seen.tracks for seen in watch([frame], classifier, Cascade())] == [[]]
    (seen,) = watch([frame], classifier, whole, margin=None)
    assert seen.tracks[0].label == TONES.index("light")
    drawn = annotate(seen, TONES, 25.0)
    assert drawn.shape == frame.pixels.shape and (drawn != frame.pixels).any()
    assert (frame.pixels == 250).all()


class Camera:
    """Gives a frame each time it is told to, and none after `last`."""

    def __init__(self, last=math.inf):
        self.told, self.last, self.count = threading.Semaphore(0), last, 0

    def read(self):
        self.told.acquire()
        if self.count >= self.last:
            return False, None
        self.count += 1
        return True, np.full((4, 4, 3), self.count - 1, np.uint8)


def until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_camera_drops_frames_and_is_never_late():
    camera = Camera(last=8)
    with latest(camera, 30.0) as frames:
        watched = iter(frames)
        camera.told.release()
        assert next(watched).number == 0
        for _ in range(6):
            camera.told.release()
        until(lambda: frames.dropped == 5)
        late = next(watched)
        assert late.number == 6 and (late.pixels == 6).all()
        camera.told.release()
        assert next(watched).number == 7
        camera.told.release()  # the cable is pulled
        assert next(watched, None) is None
        assert (frames.read, frames.dropped) == (3, 5)
        with pytest.raises(CheckError, match="no more frames"):
            frames.require_all()


def test_a_camera_that_hangs_can_be_stopped():
    camera = Camera()
    with latest(camera, 30.0) as frames:
        threading.Timer(0.05, setattr, (frames, "stopped", True)).start()
        assert list(frames) == [] and not frames.complete
        frames.require_all()
        camera.told.release()


def test_a_video_without_frames_leaves_nothing(tmp_path, tone_bundle):
    write_video(tmp_path / "whole.avi", 5)
    head = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(head[: head.index(b"movi") + 4])
    result = run(tmp_path / "cut.avi", "--bundle", tone_bundle, "--out", tmp_path / "o.mp4", "--json", tmp_path / "o")
    assert isinstance(result.exception, CheckError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.avi", "whole.avi"]


def test_the_video_of_a_camera_keeps_the_time(tmp_path):
    writer = Writer(tmp_path / "live.avi", 10.0, live=True)
    for number, at in enumerate([0.0, 0.01, 0.5, 1.0]):
        writer.write(Frame(number, at, None), np.full((48, 64, 3), 50 * number, np.uint8))
    writer.close()
    with open_frames(str(tmp_path / "live.avi")) as frames:
        assert [round(frame.pixels.mean() / 50) for frame in frames] == [0, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]


@pytest.fixture(scope="module")
def face_video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "face.mp4"
    astronaut = data.astronaut()
    with open_writer(path, 25, live=False) as video:
        for number in range(8):
            video.write(Frame(number, number / 25, None), astronaut[:240, 60 + 4 * number : 380 + 4 * number])
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm"])
def test_a_video_is_watched_whole(tmp_path, tone_bundle, face_video, suffix):
    out, lines = tmp_path / f"out{suffix}", tmp_path / "out.jsonl"
    result = run(face_video, "--bundle", tone_bundle, "--out", out, "--json", lines, "--smallest", "0.3")
    assert result.exit_code == 0 and result.stdout == "" and "8 frames, " in result.stderr
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["frame"] for line in records] == list(range(8))
    assert [line["time"] for line in records] == pytest.approx([number / 25 for number in range(8)])
    for number, line in enumerate(records):
        (face,) = line["faces"]
        assert face["track"] == 1 and iou(tuple(face["box"]), (117 - 4 * number, 66, 97, 97)) > 0.7
    assert length(out) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, lines.name])


def test_a_directory_of_crops_is_watched_at_its_pace(tmp_path, tone_bundle):
    for number, tone in enumerate([10, 10, 250]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 24), tone, np.uint8))
    result = run(tmp_path, "--bundle", tone_bundle, "--whole", "--fps", "10", "--smoothing", "0")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["faces"][0]["label"] for line in records] == ["dark", "dark", "light"]
    assert [line["time"] for line in records] == [0, 0.1, 0.2]
    assert [line["faces"][0]["track"] for line in records] == [1, 1, 1]


def test_a_bundle_without_a_detector_watches_whole_frames(tmp_path, tone_bundle):
    info = read_json(tone_bundle / "bundle.json")
    bundle = shutil.copytree(tone_bundle, tmp_path / "bundle")
    write_json(bundle / "bundle.json", info | {"task": {"thing": "card", "things": "cards"}})
    (tmp_path / "frames").mkdir()
    for number, tone in enumerate([10, 250]):
        cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), np.full((20, 24), tone, np.uint8))
    result = run(tmp_path / "frames", "--bundle", bundle, "--smoothing", "0")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [list(line) for line in records] == [["frame", "time", "probabilities", "smoothed", "label"]] * 2
    assert [line["label"] for line in records] == ["dark", "light"]


def test_pictures_that_are_no_video_are_refused_before_anything_is_written(tmp_path, tone_bundle):
    for side in (20, 30):
        cv2.imwrite(str(tmp_path / f"{side}.png"), np.zeros((side, side), np.uint8))
    result = run(tmp_path, "--bundle", tone_bundle, "--whole", "--out", tmp_path / "out.mp4")
    assert isinstance(result.exception, CheckError) and "different sizes" in str(result.exception)
    assert not (tmp_path / "out.mp4").exists()


def test_what_came_before_a_bad_picture_is_kept(tmp_path, tone_bundle):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((20, 20), np.uint8))
    (tmp_path / "1.png").write_bytes(b"nothing")
    lines = tmp_path / "out.jsonl"
    result = run(tmp_path, "--bundle", tone_bundle, "--whole", "--json", lines)
    assert isinstance(result.exception, CheckError) and "1.png" in result.exception.where
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [0]


def test_a_video_that_ends_mid_frame_is_told_and_what_there_was_is_kept(tmp_path, tone_bundle):
    write_video(tmp_path / "whole.avi", 50)
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) * 6 // 10])
    out, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    result = run(tmp_path / "cut.avi", "--bundle", tone_bundle, "--whole", "--out", out, "--json", lines)
    assert isinstance(result.exception, CheckError) and "ends early" in str(result.exception)
    held = len(lines.read_text().splitlines())
    assert 20 < held < 40 and length(out) == held
    assert f"after frame {held - 1}" in result.exception.where


def test_a_cut_mp4_and_what_is_no_video_are_refused(tmp_path, tone_bundle, face_video):
    (tmp_path / "cut.mp4").write_bytes(face_video.read_bytes()[:-500])
    (tmp_path / "notes.txt").write_text("no video")
    for name in ("cut.mp4", "notes.txt"):
        result = run(tmp_path / name, "--bundle", tone_bundle)
        assert isinstance(result.exception, CheckError) and name in result.exception.where
        assert ("index may lie at the end" in result.exception.hint) == name.endswith(".mp4")


def test_wrong_calls_are_refused(tmp_path, tone_bundle, face_video):
    bundle = ["--bundle", tone_bundle]
    for arguments, message in [
        (["99", *bundle], "no camera or stream"),
        ([tmp_path / "nowhere.mp4", *bundle], "no such source"),
        ([face_video, "--bundle", tmp_path], "bundle|missing"),
        ([face_video, *bundle, "--out", tmp_path / "out.gif"], "no known video format"),
        ([face_video, *bundle, "--out", face_video], "would replace"),
        ([face_video, *bundle, "--detector", tmp_path / "nowhere.onnx"], "no such detector"),
    ]:
        with pytest.raises(UsageError, match=message):
            raise run(*arguments).exception
    assert not list(tmp_path.iterdir()) and length(face_video) == 8


def test_a_window_is_refused_where_opencv_has_none(tone_bundle, face_video):
    result = run(face_video, "--bundle", tone_bundle, "--show")
    if result.exception is None:
        pytest.skip("this OpenCV opens windows")
    assert isinstance(result.exception, UsageError) and "cannot open a window" in str(result.exception)


def test_ctrl_c_leaves_whole_files(tmp_path, tone_bundle):
    write_video(tmp_path / "long.avi", 3000)
    out, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    program = "import sys; from ferdistill.cli import app; app()"
    command = [sys.executable, "-c", program, "watch", str(tmp_path / "long.avi"), "--bundle", str(tone_bundle)]
    command += ["--whole", "--out", str(out), "--json", str(lines)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # Frames are being written once the temporary file holds some.
    until(lambda: any(file.stat().st_size for file in tmp_path.glob(".out-*.jsonl")))
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert 0 < len(records) < 3000 and [line["frame"] for line in records] == list(range(len(records)))
    assert length(out) == len(records)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.avi", "out.jsonl", "out.mp4"]


def test_watching_needs_neither_torch_nor_pandas(tone_bundle, face_video):
    """None in sys.modules makes an import fail."""
    program = f"""
import sys
absent = ["torch", "torchvision", "timm", "pandas", "sklearn", "scipy", "skimage", "onnx", "dvc", "matplotlib"]
sys.modules.update(dict.fromkeys(absent))
import ferdistill.runtime.classifier
assert "cv2" not in sys.modules
from ferdistill.cli import app
sys.argv = ["ferdistill", "watch", {str(face_video)!r}, "--bundle", {str(tone_bundle)!r}, "--whole"]
app()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8


def test_the_benchmarks_faces_lie_where_it_says(benchmark):
    for pixels, truth in islice(benchmark.real(1), 0, None, 12):
        (face,) = Cascade()(pixels, [truth])
        assert iou(face.box, truth.box) > 0.7 and abs(face.tilt - truth.tilt) <= 20
    frames = list(islice(benchmark.rendered(1), 0, 92, 23))  # the middles and ends of two expressions
    assert [truth for _, truth in frames][::2] == ["neutral", "neutral"]
    assert len({truth for _, truth in frames[1::2]} - {"neutral"}) >= 1
    (face,) = Cascade()(frames[1][0])
    assert face.box[2] > 150


@pytest.mark.slow
def test_memory_and_open_files_stay_where_they_are_over_ten_thousand_frames(benchmark, tmp_path, tone_bundle):
    if not Path("/proc/self/fd").exists():
        pytest.skip("/proc is Linux's")
    report = benchmark.leak(tmp_path, Classifier(tone_bundle, 1, "cpu"), 10_000)
    assert report["open_files_last"] == report["open_files_first"]
    assert report["mib_a_thousand_frames"] < 0.5
