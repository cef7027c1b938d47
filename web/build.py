"""Bring the libraries of the page of `ferdistill serve` from npm into the package: `make web`.

package.json names exact versions, ASSETS exact bytes. So there is no lock file, and what the other packages in
node_modules hold does not matter: none of it is copied.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from ferdistill.errors import CheckError, FerdistillError, UsageError
from ferdistill.faces import server
from ferdistill.files import atomic, sha256_file, write_text

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"

# File in node_modules, and its SHA-256. For a new version: change package.json, run, and put in the digest it found.
ASSETS = {
    "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm": (
        "77ebb28a6d34f371dbbf2086b7f2de8994acd8ea5a3cf1fa24d2c26c840cac7b"
    ),
    "@vladmandic/human/dist/human.esm.js": "e7c85047fb9492bd983b43d5217b54e9fb44393966f4c5db7c7ced1fdaf1fd9e",
    "@vladmandic/human/models/blazeface.bin": "dc9a97fdc50bc43216554bdd69aa3e7b9361a519ee7bdd996a2f69a98a6f9b72",
    "@vladmandic/human/models/blazeface.json": "cd7bbfc078270572beb39f9e5ae67aadbd50b5e67cff37e6d4f6b3ea39312e5f",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "onnxruntime-web/dist/ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
}

NOTICES = """\
These files are copies from npm packages, unchanged.

onnxruntime-web {onnxruntime-web}: ort*. Copyright (c) Microsoft Corporation. MIT, text below.
@vladmandic/human {@vladmandic/human}: human.esm.js. Copyright (c) Vladimir Mandic. MIT, text below.
  It holds TensorFlow.js. Copyright Google LLC. Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0
@tensorflow/tfjs-backend-wasm {@tensorflow/tfjs-backend-wasm}: tfjs-backend-wasm-simd.wasm. Copyright Google LLC.
  Apache-2.0.
blazeface.json, blazeface.bin: the weights of MediaPipe's BlazeFace, as @vladmandic/human converted them.
  Copyright The MediaPipe Authors. Apache-2.0.

"""


def main() -> None:
    """Install, compare digests, copy."""
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError("npm is not on the path", expected="Node.js 20 or newer with npm", hint="install Node.js")
    command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
    if subprocess.run(command, cwd=HERE, check=False).returncode:
        raise CheckError("npm install failed", where=str(HERE), hint="see npm's message above")
    for name, expected in ASSETS.items():
        found = sha256_file(MODULES / name) if (MODULES / name).is_file() else "of no file"
        if found != expected:
            raise CheckError(
                "a file of an npm package is not the one that was reviewed",
                where=f"{MODULES / name}, SHA-256 {found}",
                expected=f"SHA-256 {expected}",
                hint="remove web/node_modules and run again; after a change of version, put the new digest in ASSETS",
            )
    vendor = server.WEB / "vendor"
    for name in ASSETS:
        source = MODULES / name
        with atomic(vendor / source.name) as temporary:
            shutil.copyfile(source, temporary)
    versions = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    notices = NOTICES
    for package, version in versions.items():
        notices = notices.replace(f"{{{package}}}", version)
    mit = (MODULES / "@vladmandic/human/LICENSE").read_text(encoding="utf-8")
    write_text(vendor / "NOTICES.txt", notices + mit)
    size = sum((vendor / name).stat().st_size for name in server.VENDOR)
    print(f"{vendor}: {len(ASSETS)} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except FerdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
