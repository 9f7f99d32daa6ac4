"""Tasks of the bench: frozen, versioned worlds with a pairing, a dictionary size and a rule for what is scored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, check
from monosem.base.registry import Registry
from monosem.base.seeds import philox
from monosem.base.spec import digest, parse_call
from monosem.bench.fitted import fitted_world
from monosem.bench.laws import Hierarchy
from monosem.bench.world import Independent, Truth, World, WorldSpec
from monosem.bench.worlds import grid_text, world_spec
from monosem.core.pairs import FreshRows

SIDES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = MappingProxyType(
    {"sae": ((0,), (0,)), "transcoder": ((0,), (1,)), "crosscoder": ((0, 1), (0, 1))}
)
"""Pairings of a task: which sources of the world are read and which are written."""
_FAR = 2**32


@dataclass(frozen=True)
class Task:
    """A benchmark task. Changing any number makes a new version.

    `anchors` is the usual number of anchored features; `held_out` names the rule for what is scored: "after_anchors"
    scores every feature after the first k of `anchor_order`, in plain and anchored runs alike.
    """

    name: str
    version: int
    world: WorldSpec
    n_q: int
    anchors: int
    pairing: str = "sae"
    held_out: str = "after_anchors"

    def __post_init__(self) -> None:
        check(self.pairing in SIDES, f"unknown pairing {self.pairing!r} of a task; known: {', '.join(SIDES)}")
        check(self.held_out == "after_anchors", f"unknown rule {self.held_out!r}; known: after_anchors")
        check(
            0 <= self.anchors < self.world.n,
            f"anchors = {self.anchors} of n = {self.world.n} features leave none to score; ask for fewer",
        )

    @property
    def reads(self) -> tuple[int, ...]:
        """Sources that make x_p."""
        return SIDES[self.pairing][0]

    @property
    def writes(self) -> tuple[int, ...]:
        """Sources that make x_r."""
        return SIDES[self.pairing][1]

    @property
    def digest(self) -> str:
        """sha256 of everything above."""
        return digest(self)

    def with_seed(self, seed: int) -> "Task":
        """The same task in the world of another seed."""
        return replace(self, world=replace(self.world, seed=seed))

    def anchor_order(self) -> Int[Tensor, " n"]:
        """A permutation of the features by the world's seed and law alone: anchoring takes them in this order."""
        return torch.from_numpy(self.world.law.anchor_order(philox(self.world.seed, "anchors"), self.world.n))

    def anchored(self, k: int, among: str = "all") -> Int[Tensor, " anchored"]:
        """Those of the first k features of the order that are of a kind; a hierarchy has "parents" and "children".

        Raises: ArgumentError: the world's law has no such kind, or there is none among the k.
        """
        first = self.anchor_order()[:k]
        members = first[torch.from_numpy(self.world.law.group(among, self.world.n))[first]]
        check(not k or members.numel() > 0, f"none of the first k = {k} features are {among}; anchor more")
        return members

    def scored(self, k: int | None = None) -> Int[Tensor, " scored"]:
        """The features that are scored when the first k are set aside (None: the usual number), in increasing order."""
        k = self.anchors if k is None else k
        if not 0 <= k < self.world.n:
            raise ArgumentError(f"k = {k} anchors of n = {self.world.n} features leave none to score; ask for fewer")
        return self.anchor_order()[k:].sort().values


class TaskSource:
    """A task's rows for training: `take(index) -> (x_p, x_r)`, and its truth for scoring.

    `fresh`: an endless source of rows of the same law that neither training nor scores see.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.world = task, World(task.world)
        self.p_widths = tuple(task.world.widths[s] for s in task.reads)
        self.r_widths = tuple(task.world.widths[s] for s in task.writes)
        self.rows = task.world.rows
        self._needed = tuple(sorted({*task.reads, *task.writes}))

    @cached_property
    def digest(self) -> str:
        """sha256 of the realised data: directions and first rows of the sources in use."""
        return self.world.data_digest(sources=self._needed)

    @cached_property
    def W_p(self) -> Float[Tensor, "n_p n"]:
        """True directions of the sources read, side by side, a unit column in each."""
        return torch.cat([self.world.directions(s).W for s in self.task.reads])

    @cached_property
    def W_r(self) -> Float[Tensor, "n_r n"]:
        """True directions of the sources written, side by side, a unit column in each."""
        return torch.cat([self.world.directions(s).W for s in self.task.writes])

    @cached_property
    def offset_p(self) -> Float[Tensor, " n_p"]:
        """What every x_p has in common."""
        return torch.cat([self.world.offset(s) for s in self.task.reads])

    @cached_property
    def offset_r(self) -> Float[Tensor, " n_r"]:
        """What every x_r has in common."""
        return torch.cat([self.world.offset(s) for s in self.task.writes])

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Training rows by number: (x_p, x_r)."""
        return self.pair(self.trained(index))

    def trained(self, index: Int[Tensor, " batch"]) -> Truth:
        """Training rows by number, with what is true of them."""
        return self.world.take(index, self._needed)

    def held_out(self, rows: int, *, start: int = 0) -> Truth:
        """Evaluation rows, from a stream that training never sees; only the sources in use."""
        return self.world.held_out(rows, start=start, sources=self._needed)

    @cached_property
    def fresh(self) -> FreshRows:
        """Rows from far out in the stream of evaluation."""

        def take(index: Tensor) -> tuple[Tensor, Tensor]:
            return self.pair(self.held_out(len(index), start=_FAR + int(index[0])))

        return FreshRows(take, self.p_widths, self.r_widths)

    def pair(self, truth: Truth) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """(x_p, x_r) of rows that hold the sources in use."""
        sources = dict(zip(self._needed, truth.sources, strict=True))
        x_p = _side_by_side([sources[s] for s in self.task.reads])
        if self.task.reads == self.task.writes:
            return x_p, x_p
        return x_p, _side_by_side([sources[s] for s in self.task.writes])


TASKS: Registry[Task] = Registry("task")


def _add(name: str, version: int, world: WorldSpec, n_q: int, anchors: int) -> None:
    TASKS.add(name, Task(name, version, world, n_q, anchors))


_add("lrb/nano", 1, WorldSpec(24, (16, 16), 0.2, Independent(0.9), rows=2048), n_q=48, anchors=4)
_add("lrb/mini", 1, WorldSpec(125, (96, 96), 0.1, Independent(0.99), rows=100_000), n_q=2000, anchors=12)
_add("lrb/mini-hard", 1, WorldSpec(300, (96, 96), 0.12, Independent(0.98), rows=1400), n_q=2000, anchors=60)
_add(
    "lrb/hierarchy",
    1,
    WorldSpec(100, (48, 48), 0.2, Hierarchy((4,) * 10, 0.98, c_min=0.5, beta=0.5), rows=100_000),
    200,
    25,
)
_add("lrb/paper", 1, WorldSpec(1000, (768, 768), 0.1, Independent(0.99), rows=100_000), n_q=16_000, anchors=100)

WORLDS: Mapping[str, str] = MappingProxyType(
    {
        "cone": "world() + cone(cosine=0.3)",
        "clusters": "world() + clusters(cosine=0.6)",
        "blocks": "world() + blocks(given=0.4)",
        "strong-blocks": "world() + blocks(given=0.8)",
        "exclusive": "world() + exclusive(size=15)",
        "copula": "world() + copula(strength=0.5)",
        "zipf-hierarchy": "world() + tree(branching=(4,), trees=8, root=0.12, follow=0.35, zipf=1.0)",
        "deep-hierarchy": "world() + tree(branching=(3, 2), trees=5, root=0.12, follow=0.5)",
        "heavy": "world() + pareto(exponent=1.2)",
        "scales": "world(spread=1.0)",
        "signed": "world(signed=True)",
        "duplicates": "world() + duplicates(pairs=6, cosine=0.9)",
        "offset": "world() + offset(length=10.0)",
        "noise": "world() + noise(db=10)",
        "dense": "world() + factors(count=5)",
        "network": "world(n=120, d=48, rows=12000, spread=0.5) + tree(branching=(4,), trees=12, zipf=0.7) "
        "+ clusters(cosine=0.4) + cone(cosine=0.2) + factors(count=3, share=0.3) + noise(db=20)",
    }
)
"""Worlds that resemble networks in one respect each, and one in several at once; tasks lrb/cone, lrb/clusters ..."""
for _name, _text in WORLDS.items():
    _spec = world_spec(_text)
    _add(f"lrb/{_name}", 1, _spec, n_q=4 * _spec.n, anchors=_spec.n // 5)


def named_task(name: str) -> Task:
    """A registered task; a cell of the factor grid, "lrb/grid(coherence=0.6, db=20)"; a world as text; a fitted one.

    "fitted:PATH" names a file of `fit_world`. All but registered ones have four latents a feature and anchor a fifth.

    Example:
        >>> named_task("lrb/grid(given=0.4, rows=2000)").world.rows, named_task("world(n=40) + cone()").n_q
        (2000, 160)
    """
    if name.startswith("lrb/grid"):
        spec = world_spec(grid_text(**parse_call(name.removeprefix("lrb/"))[1]))
    elif name.startswith("world"):
        spec = world_spec(name)
    elif name.startswith("fitted:"):
        spec = fitted_world(name.removeprefix("fitted:"))
    else:
        return TASKS[name]
    return Task(name, 1, spec, n_q=4 * spec.n, anchors=spec.n // 5)


def task(name: str, pairing: str = "sae", seed: int = 0) -> Task:
    """A task by its name, see `named_task`, with one of its pairings, in the world of one seed.

    Example:
        >>> task("lrb/mini", "crosscoder").reads
        (0, 1)
    """
    return replace(named_task(name), pairing=pairing).with_seed(seed)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
