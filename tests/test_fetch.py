"""The real packages, from PyPI and npm: `make test-photos` runs this, and nothing else does."""

import numpy as np
import pytest
from skimage import data

from conftest import CLASSES
from ferdistill import packages
from ferdistill.faces import public
from ferdistill.faces.detector import Face, FullRange, crop, iou
from ferdistill.files import sha256_file

pytestmark = [pytest.mark.slow, pytest.mark.fetch]
FACE = (177.0, 66.0, 97.0, 97.0)  # of scikit-image's astronaut, who smiles


def test_the_public_networks_see_a_smile(tmp_path):
    files = public.bring(list(public.NETWORKS), tmp_path)
    smile = crop(data.astronaut(), Face(FACE))
    for file in files:
        assert CLASSES[int(public.Witness(file.stem, tmp_path, CLASSES).logits([smile]).argmax())] == "happy"
    digests = [sha256_file(file) for file in files]
    assert [sha256_file(file) for file in public.bring(list(public.NETWORKS), tmp_path)] == digests


def test_the_detector_finds_a_face_and_answers_as_tensorflow_lite_does(tmp_path):
    facts = public.bring_detector(tmp_path / "full_range.onnx")
    assert facts["sha256"] == sha256_file(tmp_path / "full_range.onnx")
    detect = FullRange(tmp_path / "full_range.onnx", threads=1)
    (face,) = detect(data.astronaut())
    assert iou(face.box, FACE) > 0.7 and abs(face.tilt) < 10

    lite = pytest.importorskip("ai_edge_litert.interpreter")
    (stored,) = packages.fetch(public.DETECTOR, public.DETECTOR_FILES).values()
    interpreter = lite.Interpreter(model_content=stored, num_threads=1)
    interpreter.allocate_tensors()
    images = np.random.default_rng(0).uniform(-1, 1, (1, 192, 192, 3)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    theirs = [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]
    boxes, scores = detect._session.run(["boxes", "scores"], {"images": images.transpose(0, 3, 1, 2).copy()})
    for ours, other in zip((boxes, scores), sorted(theirs, key=lambda values: -values.shape[-1]), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-3)
