"""Branch and bound for two latents: lower bounds of L~ over cones of planes, thousands at once."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.theory.search.cones import CodeCone

_BATCH = 2048
_TRIED = 12


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Cones of planes span(z, y): z in the hull of `first`, y in that of `second` (rows; repeated when fewer than 3).

    z is a code of cone `one`. y is a code of cone `other` (kind 0), or a direction of coordinate sum 0 such that the
    plane holds a code of that cone: any direction (kind 1), or one of which each will do (kind 2, both cones the same).
    """

    first: Float[Tensor, "nodes 3 n"]
    second: Float[Tensor, "nodes 3 n"]
    one: Int[Tensor, " nodes"]
    other: Int[Tensor, " nodes"]
    kind: Int[Tensor, " nodes"]
    low: Float[Tensor, " nodes"]

    def __getitem__(self, index: Tensor) -> "_Nodes":
        return _Nodes(*(getattr(self, name)[index] for name in _NAMES))


_NAMES = ("first", "second", "one", "other", "kind", "low")


@dataclass(frozen=True, eq=False)
class _Bounded:
    """A lower bound on L~ over all pairs of codes, encoder rows and the nodes it took.

    `rows` are those of the least L~ met, `loss`; None if nothing lower than what was given was met.
    """

    lower: float
    nodes: int
    loss: float
    rows: Float[Tensor, "2 n_p"] | None


def _join(parts: list[_Nodes]) -> _Nodes:
    return _Nodes(*(torch.cat([getattr(p, name) for p in parts]) for name in _NAMES))


def lower_bounds(
    G: Float[Tensor, "n n"], first: Float[Tensor, "nodes 3 n"], second: Float[Tensor, "nodes 3 n"]
) -> Float[Tensor, " nodes"]:
    """For each node, a number that L~ cannot be below when some z and y of its hulls are both spanned by the codes.

    Equation: n_q = 2 codes with the best decoder leave L~ = tr(G Pi), Pi the projector on their complement. As Pi z =
        Pi y = 0, L~ = tr((G + z p^T + p z^T + y q^T + q y^T) Pi) for every p, q, which is at least the sum of the n - 2
        least eigenvalues; that sum is concave in (z, y), so its least value is at a pair of vertices of the hulls.
        p and q make it exact at the centre: they cancel the block of G between plane and complement and lift the
        block on the plane to tau; several tau are tried. At a stationary point the error is quadratic in the size.
    """
    n = G.shape[0]
    c = torch.nn.functional.normalize(first.mean(1), dim=1)
    y = torch.nn.functional.normalize(second.mean(1), dim=1)
    v = _slice(first, c)
    w = _slice(second, y)
    B = torch.stack([c, y], 2)
    inverse = torch.linalg.pinv(B)
    P = B @ inverse
    Pi = torch.eye(n, dtype=G.dtype) - P
    top = torch.linalg.eigvalsh(Pi @ G @ Pi)[:, -1]
    energy = float(G.trace())
    best = torch.full((len(c),), -energy, dtype=G.dtype)
    across = -Pi @ G @ inverse.transpose(1, 2)
    for lift in (0.1, 0.4, 1.5):
        tau = (top + lift * energy / n)[:, None, None]
        R = across + 0.5 * P @ (tau * P - G @ P) @ inverse.transpose(1, 2)
        M = G + _both(v, R[:, None, :, 0])[:, :, None] + _both(w, R[:, None, :, 1])[:, None]
        values = torch.linalg.eigvalsh(M)[..., : n - 2].sum(3).amin((1, 2))
        best = torch.maximum(best, values)
    return best - 1e-12 * energy


def _slice(rays: Float[Tensor, "nodes 3 n"], centre: Float[Tensor, "nodes n"]) -> Float[Tensor, "nodes 3 n"]:
    """The rays cut at <ray, centre> = 1 where the cone is narrow enough for that."""
    along = (rays * centre[:, None]).sum(2, keepdim=True)
    return rays / torch.where((along > 0.3).all(1, keepdim=True), along, torch.ones_like(along))


def _both(a: Tensor, b: Tensor) -> Tensor:
    """a b^T + b a^T."""
    half = a[..., :, None] * b[..., None, :]
    return half + half.transpose(-1, -2)


def _rays(cones: list[CodeCone]) -> Tensor:
    """The rays of every cone, cut at coordinate sum 1; repeated where a cone has fewer than the most."""
    most = max(len(cone.codes) for cone in cones)
    rays = np.stack([cone.codes[np.arange(most) % len(cone.codes)] for cone in cones])
    return torch.from_numpy(rays / rays.sum(2, keepdims=True))


def _impossible(nodes: _Nodes, rays: Float[Tensor, "cones most n"]) -> Bool[Tensor, " nodes"]:
    """Nodes of kind 1 whose planes hold no code of the cone `other`, up to limits that other nodes hold.

    With z and codes g cut at coordinate sum 1, the plane of z and y holds a code iff y or -y is a positive multiple of
    some g - z: y lies in the hull of all differences of rays, or in its negative. These hulls are cones in
    three dimensions, and two such cones are apart iff a plane through two rays of one of them tells them apart.
    """
    out = torch.zeros(len(nodes.low), dtype=torch.bool)
    asked = (nodes.kind == 1).nonzero().flatten()
    if len(asked) == 0:
        return out
    n = rays.shape[2]
    basis = torch.from_numpy(np.linalg.svd(np.ones((1, n)))[2][1:].T)
    z = nodes.first[asked] / nodes.first[asked].sum(2, keepdim=True)
    gaps = (rays[nodes.other[asked]][:, :, None] - z[:, None]).flatten(1, 2) @ basis
    length = gaps.norm(dim=2, keepdim=True)
    gaps = torch.where(length > 1e-12, gaps / length.clamp(min=1e-300), torch.zeros_like(gaps))
    y = torch.nn.functional.normalize(nodes.second[asked] @ basis, dim=2)
    normals = []
    for cone in (gaps, y):
        i, j = torch.triu_indices(cone.shape[1], cone.shape[1], 1)
        normals.append(torch.linalg.cross(cone[:, i], cone[:, j]))
    planes = torch.cat(normals, 1)
    size = planes.norm(dim=2, keepdim=True)
    planes = torch.where(size > 1e-6, planes / size.clamp(min=1e-300), torch.zeros_like(planes))
    g, h = planes @ gaps.transpose(1, 2), planes @ y.transpose(1, 2)
    none, some = 1e-9, 1e-7
    up, down = g.amin(2) >= -none, g.amax(2) <= none
    aside = up & down & ((h.amin(2) > some) | (h.amax(2) < -some))  # the hull is flat, y is off it
    under, over = h.amax(2) <= none, h.amin(2) >= -none
    ahead = ((up & ~down & under) | (down & ~up & over) | aside).any(1)
    behind = ((up & ~down & over) | (down & ~up & under) | aside).any(1)
    out[asked] = ahead & behind
    return out


def _split(nodes: _Nodes) -> _Nodes:
    """Halve the longest edge of the two hulls of every node."""
    both = torch.stack([nodes.first, nodes.second], 1)
    unit = torch.nn.functional.normalize(both, dim=3)
    ends = torch.tensor([[0, 1], [1, 2], [2, 0]])
    length = (unit[:, :, ends[:, 0]] - unit[:, :, ends[:, 1]]).norm(dim=3).flatten(1)
    longest = length.argmax(1)
    rows, which, edge = torch.arange(len(longest)), longest // 3, longest % 3
    a, b = ends[edge, 0], ends[edge, 1]
    middle = torch.nn.functional.normalize(unit[rows, which, a] + unit[rows, which, b], dim=1)
    parts = []
    for end in (a, b):
        child = both.clone()
        same = (both[rows, which] == both[rows, which, end][:, None]).all(2)  # repeated vertices move together
        child[rows, which] = torch.where(same[..., None], middle[:, None], both[rows, which])
        parts.append(_Nodes(child[:, 0], child[:, 1], nodes.one, nodes.other, nodes.kind, nodes.low))
    return _join(parts)


def _padded(codes: np.ndarray) -> Tensor:
    return torch.from_numpy(codes[np.arange(3) % len(codes)])


def _start(cones: list[CodeCone], n: int) -> _Nodes:
    """Every pair of cones: two codes where the cones meet in 0 alone, else a code and a direction."""
    nodes: list[tuple[Tensor, Tensor, int, int, int]] = []
    hull = np.linalg.svd(np.ones((1, n)))[2][1:]  # directions of coordinate sum 0, up to sign
    wide = [hull * np.array(s)[:, None] for s in ((1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1))]
    for a, b in itertools.combinations_with_replacement(range(len(cones)), 2):
        i, j = (a, b) if cones[a].rank >= cones[b].rank else (b, a)
        for simplex in cones[i].simplices():
            z = _padded(cones[i].codes[list(simplex)])
            if i == j:
                nodes += [(z, y, i, j, 2) for y in _within(cones[i])]
            elif _apart(cones[i].codes, cones[j].codes):
                nodes += [(z, _padded(cones[j].codes[list(s)]), i, j, 0) for s in cones[j].simplices()]
            else:
                nodes += [(z, _padded(y), i, j, 1) for y in wide]
    first, second, one, other, kind = zip(*nodes, strict=True)
    low = torch.zeros(len(kind), dtype=torch.float64)
    numbers = torch.tensor([one, other, kind])
    return _Nodes(torch.stack(first), torch.stack(second), numbers[0], numbers[1], numbers[2], low)


def _within(cone: CodeCone) -> list[Tensor]:
    """Directions of planes within the span of one cone: half a circle in two arcs; one direction; none."""
    if cone.rank == 1:
        return []
    slices = cone.codes / cone.codes.sum(1, keepdims=True)
    right = np.linalg.svd(slices - slices.mean(0))[2]
    if cone.rank == 2:
        return [_padded(right[:1])]
    return [_padded(np.stack([right[0], right[1]])), _padded(np.stack([right[1], -right[0]]))]


def _apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two cones of nonnegative codes meet in 0 alone: no convex combinations agree."""
    from scipy.optimize import nnls

    p, q = a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True)
    top = np.hstack([p.T, -q.T])
    sums = np.vstack([np.append(np.ones(len(p)), np.zeros(len(q))), np.append(np.zeros(len(p)), np.ones(len(q)))])
    return bool(nnls(np.vstack([top, sums]), np.append(np.zeros(len(top)), [1.0, 1.0]))[1] > 1e-6)


def _dictionaries(nodes: _Nodes, cones: list[CodeCone], G: np.ndarray) -> list[tuple[float, Tensor]]:
    """L~ and encoder rows of a plane in each node that holds two codes, or of one close to it."""
    from scipy.optimize import nnls

    out = []
    for k in range(len(nodes.low)):
        one, other, kind = cones[int(nodes.one[k])], cones[int(nodes.other[k])], int(nodes.kind[k])
        rays, y = nodes.first[k].numpy(), nodes.second[k].mean(0).numpy()
        for sign in (1.0, -1.0) if kind else (1.0,):
            a = np.ones(3)
            if kind:  # two codes whose difference is y
                shares = nnls(np.vstack([other.codes, -rays]).T, sign * y)[0]
                b, a = shares[:-3], shares[-3:] + 1e-6 * shares.max()
            else:
                b = nnls(other.codes.T, y)[0]
            shares = [nnls(one.codes.T, a @ rays)[0], b]
            codes = np.stack([shares[0] @ one.codes, b @ other.codes])
            norms = np.linalg.norm(codes, axis=1, keepdims=True)
            if norms.min() < 1e-9:
                continue
            q, triangle = np.linalg.qr((codes / norms).T)
            if abs(triangle[1, 1]) > 1e-7:
                rows = np.stack([shares[0] @ one.encoders, b @ other.encoders]) / norms
                rows += 1e-9 * np.stack([one.inside, other.inside])
                out.append((float(np.trace(G) - np.trace(q.T @ G @ q)), torch.from_numpy(rows)))
    return out


def bound_pairs(G: np.ndarray, cones: list[CodeCone], best: float, gap: float, max_nodes: int) -> _Bounded:
    """Bounds on L~ over two latents and n = 4 features: nodes are split, lowest first, until `gap` is met.

    Planes are covered as (a code, a second code) or, for cones that touch, as (a code, a direction), where two codes
    that draw together lose nothing: the infimum over dictionaries whose columns grow without end is bounded too.
    """
    gram, least = torch.from_numpy(G), 1e-9 * float(np.trace(G))
    rays = _rays(cones)
    total, best_rows = 0, None
    ranked = float(torch.linalg.eigvalsh(gram)[: len(G) - 2].sum())  # no code has rank above n_q
    pool = _start(cones, len(G))
    fresh = torch.ones(len(pool.low), dtype=torch.bool)
    closed = float("inf")
    while True:
        checked = []
        for part in torch.split(fresh.nonzero().flatten(), _BATCH):
            nodes = pool[part]
            nodes = nodes[(~_impossible(nodes, rays)).nonzero().flatten()]
            total += len(nodes.low)
            low = torch.maximum(lower_bounds(gram, nodes.first, nodes.second), nodes.low)
            checked.append(_Nodes(nodes.first, nodes.second, nodes.one, nodes.other, nodes.kind, low))
        pool = _join([pool[(~fresh).nonzero().flatten()], *checked])
        pool = pool[pool.low.argsort()]
        for value, rows in _dictionaries(pool[torch.arange(min(_TRIED, len(pool.low)))], cones, G):
            if value < best:
                best, best_rows = value, rows
        enough = best - max(gap * best, least)
        if ranked >= enough:
            return _Bounded(max(ranked, 0.0), total, best, best_rows)
        if (over := pool.low >= enough).any():
            closed = min(closed, float(pool.low[over].min()))
            pool = pool[(~over).nonzero().flatten()]
        if len(pool.low) == 0 or total >= max_nodes:
            lower = max(min([closed, best, *pool.low[:1].tolist()]), ranked)
            return _Bounded(max(lower, 0.0), total, best, best_rows)
        chosen = torch.arange(min(_BATCH // 2, len(pool.low)))
        rest = pool[torch.arange(len(chosen), len(pool.low))]
        halves = _split(pool[chosen])
        fresh = torch.cat([torch.zeros(len(rest.low), dtype=torch.bool), torch.ones(len(halves.low), dtype=torch.bool)])
        pool = _join([rest, halves])
