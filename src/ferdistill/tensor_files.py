"""Tensors from safetensors files, every failure to read one being an error that says what to do."""

from pathlib import Path
from typing import Any

from safetensors import safe_open

from .errors import CheckError, UsageError


def read(path: Path, framework: str = "np", *, expected: str = "", hint: str = "") -> dict[str, Any]:
    """Every tensor of a file by its name: NumPy's, or torch's where `framework` is `pt`.

    `expected` and `hint` are what an error says belongs there, and what to do.

    Raises UsageError if the file is not there; CheckError if it is damaged, or holds a type of number that the
    framework does not know.
    """
    try:
        with safe_open(path, framework=framework) as file:
            tensors: dict[str, Any] = file.get_tensors()
            return tensors
    except FileNotFoundError:
        raise UsageError("no file of tensors here", where=str(path), expected=expected, hint=hint) from None
    except Exception as error:  # of no common class: each type of number that NumPy lacks raises in its own way
        raise CheckError(
            f"not a whole safetensors file: {error}", where=str(path), expected=expected, hint=hint
        ) from None
