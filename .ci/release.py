"""Make a release of HEAD: date, wheel, bill of materials, checksums, commit and tag. `make release` runs it.

The version is `__version__`, and the changelog's first heading must name it and say "not yet released". Nothing is
pushed or uploaded; a step that fails leaves the files of the tree as they were.
"""

import hashlib
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from ferdistill import __version__
from ferdistill.errors import CheckError, FerdistillError, UsageError
from ferdistill.files import write_text

CHANGELOG, CITATION, DIST = Path("CHANGELOG.md"), Path("CITATION.cff"), Path("dist")
HEADING = re.compile(r"^## (\S+) \((.*)\)$", re.M)


def git(*arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def require_ready() -> None:
    """Refuse what cannot be released."""
    if changed := git("status", "--porcelain"):
        raise UsageError("there are uncommitted changes", where=changed.splitlines()[0], hint="commit or remove them")
    first = HEADING.search(CHANGELOG.read_text(encoding="utf-8"))
    if first is None or first[1] != __version__ or "not yet released" not in first[2]:
        raise UsageError(
            f"the changelog's newest version is {first[0] if first else 'none'}",
            where=str(CHANGELOG),
            expected=f"## {__version__} (not yet released)",
            hint="write what is new under that heading; for another version, set __version__ in "
            "src/ferdistill/__init__.py, and run `dvc repro`, since bundle.json names it",
        )
    if git("tag", "--list", f"v{__version__}"):
        raise UsageError(f"there is a tag v{__version__} already", expected="a version that was not released")


def date_files(today: str) -> None:
    """Put the date into the changelog and the citation."""
    text = CHANGELOG.read_text(encoding="utf-8")
    write_text(CHANGELOG, HEADING.sub(f"## {__version__} ({today})", text, count=1))
    text = re.sub(r"^date-released:.*\n", "", CITATION.read_text(encoding="utf-8"), flags=re.M)
    version = f"version: {__version__}\ndate-released: {today}\n"
    write_text(CITATION, re.sub(r"^version:.*\n", version, text, flags=re.M))


def news() -> str:
    """The changelog's newest section, without its heading."""
    text = CHANGELOG.read_text(encoding="utf-8")
    return HEADING.split(text)[3].strip()


def step(*command: str) -> None:
    """Run one of the other scripts; a CheckError if it fails."""
    if subprocess.run(command, check=False).returncode:
        raise CheckError(f"not released: {' '.join(command)} failed", hint="see its message above, and run again")


def main(auditor: str) -> None:
    """Go through the steps; `auditor` is the Python of `.audit`."""
    require_ready()
    step(sys.executable, ".ci/drift.py")
    tag = f"v{__version__}"
    bill = DIST / f"ferdistill-{__version__}.cdx.json"
    DIST.mkdir(exist_ok=True)
    try:
        date_files(datetime.now(UTC).date().isoformat())
        step(sys.executable, ".ci/wheel.py", "--page", "runtime")
        step(auditor, ".ci/sbom.py", sys.executable, str(bill))
        (wheel,) = DIST.glob("ferdistill-*.whl")
        digests = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in (wheel, bill)]
        write_text(DIST / "SHA256SUMS", "".join(digests))
        git("commit", "--quiet", "--all", "--message", f"Release {__version__}")
        git("tag", "--annotate", "--cleanup=verbatim", tag, "--message", f"ferdistill {__version__}\n\n{news()}")
    except BaseException:
        git("checkout", "--quiet", "HEAD", "--", str(CHANGELOG), str(CITATION))
        raise
    print(f"{tag} is tagged here, and dist/ has {wheel.name}, {bill.name} and SHA256SUMS")
    print(f"next: git push origin HEAD {tag}, and attach these three files to the release")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FerdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
