"""Tiny corpora in each public layout, what is read of them, and the index that is built from them."""

import importlib
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from conftest import CLASSES, THREE, face, write_fer2013
from ferdistill.data.build import build
from ferdistill.data.description import SourceDescription, adapters
from ferdistill.data.reader import labels_of
from ferdistill.data.sources import Dropped, Record
from ferdistill.errors import CheckError
from ferdistill.params import IndexParams

PLUS = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
AFFECTNET = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
YOLO_NAMES = "[Anger, Contempt, Disgust, Fear, Happy, Neutral, Sad, Surprise]"


def picture(file, size=(12, 10), seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def text(file, *lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read(adapter, root, path, classes=CLASSES, **options):
    """(Records, drops, errors) of one source."""
    source = SourceDescription(name="s", adapter=adapter, path=path)
    module = importlib.import_module(adapters()[adapter])
    rows = list(module.rows(root, path, labels_of(source, classes), module.Options.model_validate(options)))
    return tuple([row for row in rows if isinstance(row, kind)] for kind in (Record, Dropped, CheckError))


def one_error(errors, *parts):
    assert len(errors) == 1, errors
    assert all(part in str(errors[0]) for part in parts), errors[0]


def write_ferplus(root, rows, usage=None):
    """Rows of (FER2013 code, ten votes); the image name is blank where the votes are None."""
    usage = usage or ["Training"] * len(rows)
    write_fer2013(root / "fer2013.csv", [(code, face(i), usage[i]) for i, (code, _) in enumerate(rows)])
    lines = [
        f"{usage[i]},{f'fer{i:07d}.png' if votes else ''},{','.join(map(str, votes or [0] * 9 + [10]))}"
        for i, (_, votes) in enumerate(rows)
    ]
    text(root / "fer2013new.csv", PLUS, *lines)


def votes(**counts):
    names = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    return [counts.get(name, 0) for name in names]


def write_rafdb(root, lines, encoding="utf-8"):
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_bytes("\r\n".join(lines).encode(encoding))
    for line in lines:
        picture(root / "Image" / "aligned" / line.split(" ")[0].replace(".jpg", "_aligned.jpg"))


def write_kaggle_rafdb(root):
    for part, start in (("train", 0), ("test", 10)):
        table = ["image,label"]
        for code in (1, 4, 7):
            name = f"{part}_{start + code:05d}_aligned.jpg"
            picture(root / "DATASET" / part / str(code) / name)
            table.append(f"{name},{code}")
        text(root / f"{part}_labels.csv", *table)


def write_affectnet(root, training, validation=(), lists="", images="Manually_Annotated_Images"):
    """Rows of (name, x, y, width, height, code); one picture of 12 x 10 for each relative name."""
    for table, rows in (("training", training), ("validation", validation)):
        lines = [f"{name},{x},{y},{w},{h},1;2;3,{code},-2,-2" for name, x, y, w, h, code in rows]
        text(root / lists / f"{table}.csv", AFFECTNET, *lines)
        for name, *_ in rows:
            if not name.startswith("/") and ".." not in name:
                picture(root / images / name)


def write_npy(root, part, labels):
    for identifier, label in labels.items():
        picture(root / part / "images" / f"{identifier}.jpg")
        (root / part / "annotations").mkdir(exist_ok=True)
        np.save(root / part / "annotations" / f"{identifier}_exp.npy", label, allow_pickle=True)
        np.save(root / part / "annotations" / f"{identifier}_val.npy", np.array("0.5"))


def write_yolo(root, files, size=(12, 10)):
    """Label lines by `part/stem`."""
    for name, lines in files.items():
        part, stem = name.split("/")
        picture(root / part / "images" / f"{stem}.png", size)
        text(root / part / "labels" / f"{stem}.txt", *lines)


def write_ckplus(root, sequences):
    """(Frames, label or None) by `S005/001`."""
    for sequence, (frames, label) in sequences.items():
        stem = sequence.replace("/", "_")
        for frame in range(1, frames + 1):
            picture(root / "cohn-kanade-images" / sequence / f"{stem}_{frame:08d}.png", seed=frame)
        (root / "Emotion" / sequence).mkdir(parents=True)
        if label is not None:
            text(root / "Emotion" / sequence / f"{stem}_{frames:08d}_emotion.txt", f"   {label:.7e}")


def png(number):
    file = io.BytesIO()
    Image.fromarray(face(number)).save(file, "PNG")
    return file.getvalue()


def write_parquet(file, numbers, label=int, path=None, group=20, named=True):
    """As `datasets.Dataset.to_parquet` writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "image": [{"bytes": png(number), "path": path or f"{number}.png"} for number in numbers],
            "label": [label(number % 3) for number in numbers],
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": THREE, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if named else {}
    pq.write_table(table.replace_schema_metadata(metadata), file, row_group_size=group)


def tar_member(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_tar(file, numbers, label="cls"):
    """As `webdataset.TarWriter` writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:") as archive:
        for number in numbers:
            name = THREE[number % 3]
            tar_member(archive, f"a/{number:06d}.png", png(number))
            if label == "cls":
                tar_member(archive, f"a/{number:06d}.cls", str(number % 3).encode())
            else:
                tar_member(archive, f"a/{number:06d}.json", json.dumps({"label": name, "who": number // 3}).encode())


NEAR = {"distance": 4, "correlation": 0.95}


def settings_with(**changes):
    values = {
        "seed": 1,
        "val": 0.2,
        "calib": 0.2,
        "test": 0.2,
        "near": NEAR,
        "mirrored": True,
        "conflicts": "drop",
        "unreadable": "strict",
    }
    return IndexParams.model_validate(values | changes)


SETTINGS = settings_with()


def make(corpus, classes=THREE, workers=1, **changes):
    """Rows and report; the latter with the rows left out."""
    built = build(corpus, classes, settings_with(**changes), workers)
    return built.rows, built.report | {"left_out_rows": built.left_out}
