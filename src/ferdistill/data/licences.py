"""Which licence each source of a corpus says that it has, and which of them binds most."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

UNKNOWN = "unknown"
# From what binds least to what binds most, by the beginnings of SPDX identifiers. Any other, and a LicenseRef, is terms
# of its own; a licence that nobody knows may forbid anything.
ORDER = (
    ("public domain", r"CC0-|CC-PDDC|PDDL-|Unlicense|0BSD"),
    ("attribution", r"CC-BY-[1-4]|ODC-By-|MIT|Apache-|BSD-|ISC|Zlib"),
    ("share alike", r"CC-BY-SA-|ODbL-|[AL]?GPL-"),
    ("no derivatives", r"CC-BY-ND-"),
    ("non-commercial", r"CC-BY-NC-"),
    ("terms of its own", r"(?!unknown$)"),
    (UNKNOWN, r""),
)


def checked(licence: str) -> str:
    """An SPDX identifier, or `LicenseRef-NAME` for terms of one's own, as SPDX writes it; a ValueError at any other."""
    try:
        found = canonicalize_license_expression(licence)
    except InvalidLicenseExpression:
        found = None
    if found is None or " " in found:
        raise ValueError(
            f"one SPDX identifier of spdx.org/licenses, as CC-BY-4.0, or LicenseRef-NAME; found {licence[:80]!r}"
        )
    return str(found)


def rank(licence: str) -> int:
    """The place of a licence in `ORDER`."""
    return next(place for place, (_, begins) in enumerate(ORDER) if re.match(begins, licence))


def strictest(licences: Iterable[str]) -> str:
    """Of licences that which binds most, by `ORDER`; the first in the alphabet of equals."""
    return max(sorted(licences), key=rank)


def told(sources: Mapping[str, tuple[str | None, str | None]]) -> dict[str, Any]:
    """What is written of sources and their licence and address: `sources` by name, and the `strictest` of all."""
    found = {name: {"licence": licence or UNKNOWN, "url": url} for name, (licence, url) in sources.items()}
    return {"strictest": strictest([one["licence"] or UNKNOWN for one in found.values()]), "sources": found}
