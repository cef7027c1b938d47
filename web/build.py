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
from ferdistill.faces import public, server
from ferdistill.files import atomic, sha256_file, write_text

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"

# File in node_modules, and its SHA-256. For a new version: change package.json, run, and put in the digest it found.
ASSETS = {
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "onnxruntime-web/dist/ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
}

NOTICES = """\
onnxruntime-web {version}: ort*, copies from the npm package, unchanged. Copyright (c) Microsoft Corporation. MIT, text
below.
full_range.onnx: the weights of MediaPipe's face detector, converted from those of the npm package that full_range.json
names. Copyright The MediaPipe Authors. Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
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
    public.bring_detector(vendor / public.FULL_RANGE.name)
    versions = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    write_text(vendor / "NOTICES.txt", NOTICES.format(version=versions["onnxruntime-web"]))
    size = sum((vendor / name).stat().st_size for name in server.VENDOR)
    print(f"{vendor}: {len(server.VENDOR)} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except FerdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
