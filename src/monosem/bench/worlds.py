"""Worlds as text: `world(n=60, d=32) + blocks(given=0.4) + cone(cosine=0.3) + noise(db=20)`."""

from typing import Any

from monosem.base.errors import ArgumentError, check
from monosem.base.registry import Registry
from monosem.base.spec import format_call, parse_call
from monosem.bench.laws import Hierarchy, Zipf
from monosem.bench.laws_firing import FIRINGS, Firing
from monosem.bench.laws_sizes import SIZES, Composed, Sizes
from monosem.bench.surroundings import BACKGROUNDS, GEOMETRIES, Background, Geometry
from monosem.bench.world import FeatureLaw, Independent, WorldSpec

LAWS: Registry[type[FeatureLaw]] = Registry("whole law")
LAWS.add("paper", Independent)
LAWS.add("hierarchy", Hierarchy)
LAWS.add("zipf", Zipf)
PARTS = (FIRINGS, SIZES, GEOMETRIES, BACKGROUNDS, LAWS)
"""What may stand after `world(...)`: who fires, how large, how directions lie, what is added; or a whole law."""


def world_spec(text: str, seed: int = 0) -> WorldSpec:
    """A world from text: `world(...)` and its parts, joined by +; the order of geometries and backgrounds counts.

    `world` takes n, d (one width for both sources), rows (None: a stream), M (the interference before any geometry),
    spread and signed (of `Composed`). Without a firing law features are independent, without sizes exponential.
    Raises: UnknownNameError for a part that is unknown; ArgumentError for two laws of one kind, or an argument that a
        part does not take.

    Example:
        >>> spec = world_spec("world(n=20, d=16) + blocks(given=0.8) + cone(cosine=0.3) + noise(db=20)")
        >>> spec.law.firing, spec.geometry, spec.background
        (Blocks(rate=0.04, given=0.8, size=5), (Cone(cosine=0.3),), (Noise(db=20),))
    """
    head, *rest = (parse_call(part) for part in _split(text))
    check(head[0] == "world", f"{text!r} begins with {head[0]!r}; a world begins with world(...)")
    parts = [_part(name, arguments) for name, arguments in rest]
    numbers: dict[str, Any] = {"n": 60, "d": 32, "rows": 4000, "M": 0.3, "spread": 0.0, "signed": False}
    unknown = sorted(set(head[1]) - set(numbers))
    check(not unknown, f"world takes no {', '.join(unknown)}; it takes {', '.join(numbers)}")
    numbers |= head[1]
    law = _law(parts, numbers["spread"], numbers["signed"])
    return WorldSpec(
        numbers["n"],
        (numbers["d"],) * 2,
        numbers["M"],
        law,
        numbers["rows"],
        seed,
        geometry=tuple(part for part in parts if isinstance(part, Geometry)),
        background=tuple(part for part in parts if isinstance(part, Background)),
    )


def _law(parts: list[Any], spread: float, signed: bool) -> FeatureLaw:
    """The whole law among the parts, or one composed of who fires and how large."""
    whole, firing, sizes = (_only(parts, kind) for kind in (FeatureLaw, Firing, Sizes))
    if whole is None:
        given: dict[str, Any] = {"firing": firing, "sizes": sizes}
        return Composed(**{k: v for k, v in given.items() if v is not None}, spread=spread, signed=signed)
    clash = firing or sizes or spread or signed
    check(not clash, f"{whole} is a whole law and stands with parts of one; give one of the two")
    assert isinstance(whole, FeatureLaw)
    return whole


def grid_text(
    *,
    coherence: float = 0.0,
    cone: float = 0.0,
    given: float = 0.0,
    db: float | None = None,
    rows: int = 4000,
    n: int = 60,
    d: int = 32,
    l0: float = 2.4,
) -> str:
    """The world of one cell of the factor grid: coherence and dependence, noise, rows, features per dimension, L0.

    `coherence` is the cosine within clusters of five, `cone` that of all pairs, `given` the rate of a member of a block
    of five given its block (0: independent), `db` the noise below the features (None: none).

    Example:
        >>> grid_text(coherence=0.6, db=20)
        'world(n=60, d=32, rows=4000, M=0.4) + independent(rate=0.04) + clusters(cosine=0.6) + noise(db=20)'
    """
    check(0.0 < l0 < n, f"l0 = {l0} active features of n = {n}; choose l0 between the two")
    rate = round(l0 / n, 6)
    parts = [("world", {"n": n, "d": d, "rows": rows, "M": 0.4})]
    parts += [("blocks", {"rate": rate, "given": given})] if given else [("independent", {"rate": rate})]
    parts += [("clusters", {"cosine": coherence})] if coherence else []
    parts += [("cone", {"cosine": cone})] if cone else []
    parts += [] if db is None else [("noise", {"db": db})]
    return " + ".join(format_call(name, arguments) for name, arguments in parts)


def _split(text: str) -> list[str]:
    """The parts between the + signs that stand outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "+" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _part(name: str, arguments: dict[str, Any]) -> Any:
    for registry in PARTS:
        if name in registry:
            try:
                return registry[name](**arguments)
            except TypeError as error:
                raise ArgumentError(f"{name}: {error}; `monosem list worlds` names what it takes") from None
    known = Registry[object]("part of a world")
    for registry in PARTS:
        for one, kind in registry.items():
            known.add(one, kind)
    return known[name]


def _only(parts: list[Any], kind: type) -> Any:
    some = [part for part in parts if isinstance(part, kind)]
    check(len(some) < 2, f"{some} are two laws of one kind; give one")
    return some[0] if some else None
