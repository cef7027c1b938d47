"""What is installed, as a software bill of materials: CycloneDX JSON, of the environment of the Python named first.

`python .ci/sbom.py .venv/bin/python sbom.cdx.json`. Names, versions, licences and who needs whom; no addresses, which
differ by where the packages were brought from.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def without_addresses(value: Any) -> Any:
    """The same without any `externalReferences`."""
    if isinstance(value, dict):
        return {name: without_addresses(item) for name, item in value.items() if name != "externalReferences"}
    return [without_addresses(item) for item in value] if isinstance(value, list) else value


python, out = sys.argv[1], Path(sys.argv[2])
command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", "pyproject.toml", "--short-PURLs"]
done = subprocess.run([*command, "--output-reproducible", python], capture_output=True, text=True, check=False)
if done.returncode:
    sys.exit(f"error: no bill of materials\n  why:      {done.stderr.strip()}")
bill = without_addresses(json.loads(done.stdout))
version = [python, "-c", "import ferdistill; print(ferdistill.__version__)"]  # pyproject.toml leaves it to the code
bill["metadata"]["component"]["version"] = subprocess.run(
    version, capture_output=True, text=True, check=True
).stdout.strip()
out.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
print(f"{out}: {len(bill['components'])} packages")
