"""Which extra of ferdistill brings a package that is not here, by what the installed distribution says of itself."""

import re
from importlib import metadata

from .errors import UsageError

# What brings the packages that a command needs; `train` where nothing is said.
OF_COMMAND = {"align": "align", "predict": "runtime", "watch": "runtime", "serve": "runtime", "bench": "runtime"}
# Distributions that are named otherwise than what is imported of them.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "markdown_it": "markdown-it-py",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*).*;.*extra *== *['\"]([^'\"]+)['\"]")


def missing(error: ModuleNotFoundError, command: str) -> UsageError | None:
    """What to tell whoever runs a command that a package is missing for; None if it is a module of our own."""
    package = (error.name or "").partition(".")[0]
    if package in ("", __package__):
        return None
    return UsageError(
        f"`ferdistill {command}` needs {package} here: pip install 'ferdistill[{bringing(package, command)}]'"
    )


def bringing(package: str, command: str) -> str:
    """The extra that brings a package: the command's own, else the least that does, with the command's own if need be.

    The command's own too where no extra names the package: another package needs it then.
    """
    own, extras = OF_COMMAND.get(command, "train"), _extras()
    name = _normal(DISTRIBUTIONS.get(package, package))
    having = [extra for extra, brought in extras.items() if name in brought]
    if not having or own in having:
        return own
    least = min(having, key=lambda extra: (len(extras[extra]), extra))
    return least if extras[own] <= extras[least] else f"{own},{least}"


def _extras() -> dict[str, set[str]]:
    """The distributions that each extra brings, whatever the platform."""
    try:
        requirements = metadata.requires("ferdistill") or []
    except metadata.PackageNotFoundError:  # run from its source
        return {}
    found: dict[str, set[str]] = {}
    for name, extra in (match.groups() for match in map(REQUIREMENT.match, requirements) if match):
        found.setdefault(extra, set()).add(_normal(name))
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
