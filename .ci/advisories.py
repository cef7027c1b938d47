"""Does any pinned dependency have a published advisory? Asks pip-audit about every line of constraints.txt.

pip-audit passes over what its source does not know, and calls the rest free of vulnerabilities; here that is "not
audited". Exit code 0: all were audited, and none has an advisory; 1: some have; 3: not audited, or not all, since no
source of advisories answered.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

PINNED = Path("constraints.txt")
# What reads files of other people, or writes pages of what they hold: to be looked up by hand where nothing answers.
BY_HAND = [
    "dvc", "jinja2", "markdown-it-py", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless",
    "pandas", "pillow", "pyarrow", "pyyaml", "ruamel-yaml", "ruamel-yaml-clib", "safetensors", "timm", "torch",
    "vl-convert-python",
]  # fmt: skip

command = [sys.executable, "-m", "pip_audit", "-r", str(PINNED), "--no-deps", "--disable-pip", "--format", "json"]
try:
    done = subprocess.run([*command, *sys.argv[1:]], capture_output=True, text=True, check=False, timeout=900)
    dependencies, complaint = json.loads(done.stdout)["dependencies"], "the source does not know them"
except subprocess.TimeoutExpired as error:
    dependencies, complaint = [], str(error)
except (ValueError, KeyError):
    dependencies, complaint = [], done.stderr.strip().rpartition("\n")[2]

pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", PINNED.read_text(encoding="utf-8"), re.M))
normal = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
audited = {one["name"] for one in dependencies if "vulns" in one}
found = [(one, advisory) for one in dependencies for advisory in one.get("vulns", [])]
for one, advisory in found:
    fixed = ", ".join(advisory["fix_versions"]) or "no release yet"
    print(f"{one['name']} {one['version']}: {advisory['id']}, mended in {fixed}", file=sys.stderr)
if found:
    sys.exit(f"error: {len(found)} advisories\n  do:       raise the versions in {PINNED}, and run the tests")
if len(audited) < len(normal):
    left = sorted(set(normal) - {re.sub(r"[-_.]+", "-", name).lower() for name in audited})
    by_hand = ", ".join(f"{name} {normal[name]}" for name in BY_HAND if name in left)
    print(
        f"NOT AUDITED: {len(left)} of {len(normal)} pinned dependencies; no source of advisories answered for them\n"
        f"  why:      {complaint}\n"
        f"  do:       run it where pip-audit reaches a source (`-s osv` for another); by hand, look up {by_hand}",
        file=sys.stderr,
    )
    sys.exit(3)
print(f"{len(audited)} pinned dependencies audited, none with a published advisory")
