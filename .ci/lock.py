"""Print requirements.lock from pip's report of a dry run (standard input): `make lock`."""

import json
import re
import sys
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CUDA = ("cuda-", "nvidia-")
"""What a CUDA build of torch brings along by itself, in the versions that it wants."""

EXTRA = re.compile(r"""\s*(and|or)?\s*extra\s*==\s*(["'])[^"']*\2\s*(and|or)?\s*""")


def markers(packages: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The conditions under which each package is wanted, by name; "" is always."""
    wanted: dict[str, set[str]] = {}
    for package in packages:
        metadata = package["metadata"]
        extras = (
            metadata["provides_extra"] if metadata["name"] == "monosem" else package.get("requested_extras") or [""]
        )
        for text in metadata.get("requires_dist", ()):
            requirement = Requirement(text)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                condition = EXTRA.sub("", str(requirement.marker or "")).strip()
                wanted.setdefault(canonicalize_name(requirement.name), set()).add(condition)
    return wanted


def main() -> None:
    """One line a package: its version without a local tag, and its conditions."""
    packages = json.load(sys.stdin)["install"]
    wanted = markers(packages)
    print(
        "# Made by `make lock` on CPython 3.11; `make setup` installs these. CUDA builds of torch add their libraries."
    )
    for package in sorted(packages, key=lambda package: canonicalize_name(package["metadata"]["name"])):
        name = canonicalize_name(package["metadata"]["name"])
        if name == "monosem" or name.startswith(CUDA):
            continue
        conditions = wanted.get(name, {""})
        condition = "" if "" in conditions else "; " + " or ".join(sorted(conditions))
        print(f"{name}=={package['metadata']['version'].partition('+')[0]}{condition}")


if __name__ == "__main__":
    main()
