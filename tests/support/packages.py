"""Small packages of the form that public networks come in, and a registry of npm that hands one out."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np


def keras_file(layers):
    """HDF5 as Keras 2 writes it; `layers` are (class, name, inputs, config, weights)."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        described = []
        for kind, name, inputs, config, weights in layers:
            inbound = [[[one, 0, 0, {}] for one in inputs]] if inputs else []
            described.append({"class_name": kind, "name": name, "config": config, "inbound_nodes": inbound})
            group = file.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [f"{name}/{place}".encode() for place in range(len(weights))]
            for place, values in enumerate(weights):
                group[f"{name}/{place}"] = values
        file.attrs["model_config"] = json.dumps({"config": {"layers": described}})
    return stream.getvalue()


def reader_of_grey(levels):
    """A Keras file whose arg-max is the level, of pixels scaled to [-1, 1], that a grey picture is nearest to."""
    scaled = np.array(levels, np.float32) / 127.5 - 1
    weights = [50 * 2 * scaled[None, None, None], -50 * scaled**2]
    return keras_file(
        [
            ("InputLayer", "input", [], {}, []),
            ("Conv2D", "read", ["input"], {"strides": [1, 1], "padding": "valid", "use_bias": True}, weights),
            ("GlobalAveragePooling2D", "mean", ["read"], {}, []),
            ("Activation", "predictions", ["mean"], {"activation": "softmax"}, []),
        ]
    )


def write_wheel(folder, name, version, files):
    """A wheel with these files, and its SHA-256."""
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, held in {**files, **metadata}.items():
            archive.writestr(zipfile.ZipInfo(file), held)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tarball(files):
    """An archive as npm has them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, held in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(held)
            archive.addfile(entry, io.BytesIO(held))
    return stream.getvalue()


@contextmanager
def npm_registry(name, version, archive):
    """The address of a registry that holds one version of one package."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            told = {
                "name": name,
                "dist-tags": {"latest": version},
                "versions": {
                    version: {
                        "name": name,
                        "version": version,
                        "dist": {"tarball": f"{address}archive.tgz", "shasum": hashlib.sha1(archive).hexdigest()},
                    }
                },
            }
            paths = {"/archive.tgz": archive, f"/{name.replace('/', '%2f')}": json.dumps(told).encode()}
            held = paths.get(self.path)
            self.send_response(200 if held else 404)
            self.end_headers()
            self.wfile.write(held or b"{}")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
