"""Names of sites: "model.layers.5.mlp:in,out", and which of some known names a text of them means."""

import re
from collections.abc import Sequence
from typing import Literal

from monosem.base.errors import check

Side = Literal["in", "out"]


def parse_sites(text: str) -> tuple[tuple[str, Side], ...]:
    """The grammar: "PATH:in,out; PATH:out". In a path * and ? and [12] match within one name, ** across dots.

    Example:
        >>> parse_sites("model.layers.5.mlp:in,out; model.norm:out")
        (('model.layers.5.mlp', 'in'), ('model.layers.5.mlp', 'out'), ('model.norm', 'out'))
    """
    sites: list[tuple[str, Side]] = []
    for part in (part.strip() for part in text.split(";")):
        if not part:
            continue
        path, colon, sides = part.rpartition(":")
        remedy = f'cannot read the site "{part}"; write a module and its side, as "model.layers.5.mlp:in,out"'
        check(bool(colon and path), remedy)
        for side in (side.strip() for side in sides.split(",")):
            check(side in ("in", "out"), f"{remedy} (a side is in or out, not {side!r})")
            sites.append((path, "in" if side == "in" else "out"))
    check(bool(sites), 'no site is given; write one as "model.layers.5.mlp:in,out"')
    return tuple(sites)


def match(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The names among `known` that a text of sites means, in the order of `known` within each part.

    Raises: ArgumentError for a part that means none.
    """
    chosen: dict[str, None] = {}
    for path, side in parse_sites(text):
        wanted = f"{path}:{side}"
        names = [name for name in known if name == wanted] or [name for name in known if fits(name, wanted)]
        check(bool(names), f"no site {wanted!r}; known: {few(known)}")
        chosen |= dict.fromkeys(names)
    return tuple(chosen)


def fits(name: str, pattern: str) -> bool:
    """Whether a name is one that a pattern means."""
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    known = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    text = "".join(
        known.get(part, part if part.startswith("[") and part.endswith("]") else re.escape(part)) for part in parts
    )
    return re.fullmatch(text, name) is not None


def few(names: Sequence[str], most: int = 6) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
