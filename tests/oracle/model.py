"""Every method once more: dense, float64, written from the papers alone, so that the library can be wrong by itself.

Nothing of the library is imported. A model is a dictionary of arrays, a method is a parsed text, a loss is the sum of
its terms, and gradients are autograd's except at the two straight-through steps, which are written out.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Arrays = dict[str, Tensor]

DEFAULTS: dict[str, dict[str, Any]] = {
    "relu_l1": {"l1": 0.8, "warmup": 0.0},
    "p_anneal": {"lp": 0.8, "p": 0.5, "updates": 10},
    "gated": {"l1": 0.8, "warmup": 0.0},
    "jumprelu": {"l0": 0.5, "theta": 0.5, "bandwidth": 1.0, "log_threshold": False, "warmup": 0.0},
    "topk": {"k": 32, "aux": 1 / 32},
    "batch_topk": {"k": 32, "aux": 1 / 32},
    "matryoshka": {"k": 32, "fractions": (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), "aux": 1 / 32},
    "multi_topk": {"k": 32, "factor": 4, "weight": 1 / 8, "aux": 1 / 32},
    "binary": {"l0": 0.1, "bandwidth": 1.0},
    "abs_topk": {"k": 32, "aux": 0.0},
    "group_max": {"k": 32, "aux": 0.0},
    "ortsae": {"k": 32, "ortho": 0.25, "chunk": 8192, "aux": 1 / 32},
    "hier_topk": {"k": 32, "aux": 1 / 32},
    "aligned": {"k": 32, "aux": 0.0},
    "gemma_scope_2": {
        "l0": 32,
        "weight": 1.0,
        "frequency": 1.0,
        "limit": 0.1,
        "fractions": (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
        "bandwidth": 1.0,
    },
    "delta_crosscoder": {"k": 32, "delta": 1.0, "aux": 1 / 32},
    "dfc": {"k": 32, "private": 0.05, "aux": 1 / 32},
    "lista": {"l1": 0.8, "steps": 2},
    "ordered_matryoshka": {"k": 32, "fractions": (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), "aux": 1 / 32},
    "anthropic_jan25": {"sparsity": 0.8, "scale": 4.0, "lift": 3e-6, "bandwidth": 2.0},
    "subspace": {"k": 32, "rank": 64, "aux": 1 / 32},
    "min_fire": {"k": 32, "share": 0.9, "aux": 0.0},
    "feature_choice": {"k": 32, "aux": 0.0},
    "dense_branch": {"k": 32, "rank": 24, "aux": 1 / 32},
    "aen": {"weight": 0.8, "ridge": 0.1, "power": 0.5},
    "t_sae": {"k": 32, "contrast": 0.1, "share": 0.2, "aux": 1 / 32},
    "adaptive_k": {"least": 16, "most": 64, "complexity": 1.0, "aux": 1 / 32},
}
PAIRINGS = ("skip_transcoder", "transcoder", "crosscoder", "cross_layer", "weakly_causal")
OWN = {"delta_crosscoder": "crosscoder", "dfc": "crosscoder", "dense_branch": "sae"}
"""Rows with a pairing of their own."""


@dataclass
class Spec:
    """A method's text, read."""

    row: str
    pairing: str
    arguments: dict[str, Any]

    @staticmethod
    def of(text: str) -> "Spec":
        """ "topk_transcoder(k=4)" is the row topk, the pairing transcoder, k = 4 and the row's defaults."""
        call = ast.parse(text if "(" in text else f"{text}()", mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
        name = call.func.id
        if name in OWN:
            return Spec(name, OWN[name], DEFAULTS[name] | given)
        pairing = next((p for p in PAIRINGS if name.endswith(f"_{p}")), "sae")
        row = name if pairing == "sae" else name.removesuffix(f"_{pairing}")
        return Spec(row, pairing, DEFAULTS[row] | given)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass
class Batch:
    """One step's rows, which latents are dead before it, and where in the run it stands."""

    x_p: Tensor
    x_r: Tensor
    dead: Tensor
    step: int = 0
    steps: int = 1
    widths: tuple[int, ...] = ()
    """Widths of the targets, side by side in x_r."""
    state: dict[str, Any] = field(default_factory=dict)
    """What p-annealing and an order by rate carry from step to step."""


class _Jump(torch.autograd.Function):
    """z H(z - theta). The step is invisible to z; theta feels it through a rectangle of width `bandwidth`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return torch.where(z > theta, z, torch.zeros_like(z))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (z, theta), g, eps = ctx.saved_tensors, gradients[0], ctx.bandwidth
        near = ((z - theta).abs() < eps / 2).to(g.dtype)
        return g * (z > theta), (-(theta / eps) * near * g).sum(0), None


class _Step(torch.autograd.Function):
    """H(z - theta), with the rectangle's slope to both."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (z, theta), g, eps = ctx.saved_tensors, gradients[0], ctx.bandwidth
        slope = ((z - theta).abs() < eps / 2).to(g.dtype) * g / eps
        return slope, -slope.sum(0), None


def first_of_row(z: Tensor, k: int, among: Tensor | None = None) -> tuple[Tensor, float]:
    """(mask of the k largest of each row, ties to the lower latent; how far apart both sides of the cut are).

    By plain sorting; fewer where fewer are there. Among numbers that are not positive no cut matters.
    """
    mask, margin = torch.zeros_like(z, dtype=torch.bool), float("inf")
    allowed = range(z.shape[1]) if among is None else among.nonzero().flatten().tolist()
    for row, values in enumerate(z.detach().tolist()):
        order = sorted(allowed, key=lambda j: (-values[j], j))
        mask[row, order[:k]] = True
        if k < len(order) and values[order[k - 1]] > 0:
            margin = min(margin, values[order[k - 1]] - values[order[k]])
    return mask, margin


def first_of_batch(z: Tensor, count: int) -> tuple[Tensor, float]:
    """(mask of the `count` largest positive entries of a batch, ties row by row; the margin of the cut)."""
    mask = torch.zeros_like(z, dtype=torch.bool)
    cells = sorted((-v, i, j) for i, row in enumerate(z.detach().tolist()) for j, v in enumerate(row) if v > 0)
    for _, i, j in cells[:count]:
        mask[i, j] = True
    return mask, cells[count][0] - cells[count - 1][0] if 0 < count < len(cells) else float("inf")


def _second(z: Tensor) -> float:
    """How far the largest of each column is above the next, where it is positive."""
    if len(z) < 2:
        return float("inf")
    first, next_one = z.topk(2, dim=0).values
    return float((first - next_one)[first > 0].min()) if bool((first > 0).any()) else float("inf")


def _ramp(weight: float, warmup: float, at: Batch) -> float:
    if not warmup:
        return weight
    return weight * min(max(at.step / at.steps / warmup, 0.0), 1.0)


def _spread(y: Tensor) -> Tensor:
    return (y - y.mean(0)).pow(2).sum()


@dataclass
class Oracle:
    """A batch through a model: z, the code, the reconstruction, and the loss of its method."""

    spec: Spec
    arrays: Arrays
    at: Batch
    prefixes: Sequence[tuple[int, int]] = ()
    """Runs of latents within which Matryoshka takes its prefixes: one, or a layer's each."""
    training: bool = True
    margin: float = field(default=float("inf"), init=False)
    """How far the pass is from choosing otherwise: a rounding below it changes no choice. Read it after `loss`."""

    def __post_init__(self) -> None:
        a, x_p = self.arrays, self.at.x_p
        b_in = a["b_D"] if "tied" in a else a.get("b_in", torch.zeros(x_p.shape[1], dtype=x_p.dtype))
        self.z = (x_p - b_in) @ a["W_E"].T + a["b_E"]
        if self.spec.row == "lista":  # the coupled form: the second matrix is -r W_E W_D
            r = a["log_rate"].exp()
            self.z = r[0] * self.z
            for t in range(self.spec["steps"]):
                self._keep_away_from_zero(self.z)
                f = self.z.clamp(min=0)
                self.z = f + r[t + 1] * ((x_p - b_in - f @ a["W_D"].T) @ a["W_E"].T + a["b_E"])
        self._keep_away_from_zero(self.z)
        self.norms = a["W_D"].pow(2).sum(0).sqrt()
        self.offset = a["b_D"] + (x_p @ a["W_skip"].T if "W_skip" in a else 0)
        self.code = self._code()
        self.x_r_hat = self.offset + self.code @ a["W_D"].T
        self.error = self.at.x_r - self.x_r_hat

    def _keep_away_from_zero(self, z: Tensor) -> None:
        """Whether a pre-activation is positive is a choice."""
        if z.numel():
            self.margin = min(self.margin, float(z.detach().abs().min()))

    @property
    def theta(self) -> Tensor:
        """JumpReLU's thresholds, whichever way they are kept."""
        return self.arrays["log_theta"].exp() if "log_theta" in self.arrays else self.arrays["theta"]

    def _code(self) -> Tensor:
        z, s, a = self.z, self.spec, self.arrays
        if s.row in ("relu_l1", "p_anneal", "lista", "aen"):
            return z.clamp(min=0)
        if s.row == "gated":
            magnitude = (a["r_mag"].exp() * (z - a["b_E"]) + a["b_mag"]).clamp(min=0)
            return magnitude * (z > 0).to(z.dtype)
        if s.row == "anthropic_jan25":
            self._near(self.theta.detach())
            return z * _Step.apply(z, self.theta, s["bandwidth"])  # type: ignore[no-any-return, no-untyped-call]
        if s.row in ("jumprelu", "gemma_scope_2"):
            self._near(self.theta.detach())
            return _Jump.apply(z, self.theta, s["bandwidth"])  # type: ignore[no-any-return, no-untyped-call]
        if s.row == "binary":
            zero = torch.zeros(z.shape[1], dtype=z.dtype)
            self._near(zero)
            return _Step.apply(z, zero, s["bandwidth"])  # type: ignore[no-any-return, no-untyped-call]
        if s.row in ("topk", "multi_topk", "hier_topk", "aligned", "subspace"):
            return z.clamp(min=0) * self._cut(first_of_row(z, s["k"]))
        if s.row == "abs_topk":
            return z * self._cut(first_of_row(z.abs(), s["k"]))
        if s.row == "group_max":
            groups = torch.chunk(z, s["k"], dim=1)
            return torch.cat([g.clamp(min=0) * self._cut(first_of_row(g, 1)) for g in groups], 1)
        if s.row == "adaptive_k":
            k = s["least"] + (s["most"] - s["least"]) * self._shares().detach()
            self.margin = min(self.margin, float(((k % 1) - 0.5).abs().min()))
            cuts = [self._cut(first_of_row(z[i : i + 1], round(float(k[i])))) for i in range(len(z))]
            return z.clamp(min=0) * torch.cat(cuts)
        if s.row == "feature_choice" and self.training:
            mask, margin = first_of_row(z.T, max(1, int(s["k"] * len(z) / z.shape[1] + 1e-6)))
            return z.clamp(min=0) * self._cut((mask.T, margin))
        if s.row == "min_fire" and self.training:
            return z.clamp(min=0) * self._with_own(int(s["k"] * len(z) + 1e-6))
        if self.training:
            return z.clamp(min=0) * self._cut(first_of_batch(z, int(s["k"] * z.shape[0] + 1e-6)))
        return z.clamp(min=0) * (z > a["threshold"].clamp(min=0))

    def _shares(self) -> Tensor:
        """What the probe says of each row, z a constant."""
        c = self.z.detach() @ self.arrays["probe"] / self.z.shape[1] ** 0.5
        return 1 / (1 + (-c).exp())

    def _with_own(self, budget: int) -> Tensor:
        """Each latent's strongest row, the strongest latents first, then the strongest of the rest."""
        best = self.z.detach().max(0, keepdim=True).values
        chosen = self._cut(first_of_batch(best, int(self.spec["share"] * budget)))
        at_best = self.z == best
        mask = at_best & (at_best.cumsum(0) == 1) & chosen
        self._cut((mask, _second(self.z.detach())))
        rest = self.z.masked_fill(mask, -1.0)
        return mask | self._cut(first_of_batch(rest, budget - int(mask.sum())))

    def _near(self, theta: Tensor) -> None:
        """Distances of z from a step and from the ends of its rectangle count as margins too."""
        off = (self.z.detach() - theta).abs()
        if off.numel():
            self.margin = min(self.margin, float(off.min()), float((off - self.spec["bandwidth"] / 2).abs().min()))

    def _cut(self, selection: tuple[Tensor, float]) -> Tensor:
        """A selection's mask; its margin is kept."""
        self.margin = min(self.margin, selection[1])
        return selection[0]

    def loss(self) -> Tensor:
        """The sum of the method's terms."""
        s, rows = self.spec, max(self.at.x_p.shape[0], 1)
        total = self._whole(rows)
        if s.row == "relu_l1":
            total = total + _ramp(s["l1"], s["warmup"], self.at) * (self.code * self._sizes()).sum() / rows
        elif s.row == "p_anneal":
            total = total + s["lp"] * self._annealed()
        elif s.row == "gated":
            gate = self.z.clamp(min=0)
            total = total + _ramp(s["l1"], s["warmup"], self.at) * (gate * self._sizes()).sum() / rows
            error = self.at.x_r - self.offset.detach() - gate @ self.arrays["W_D"].detach().T
            total = total + error.pow(2).sum() / rows
        elif s.row == "jumprelu":
            active = _Step.apply(self.z.detach(), self.theta, s["bandwidth"])  # type: ignore[no-untyped-call]
            total = total + _ramp(s["l0"], s["warmup"], self.at) * active.sum() / rows
        elif s.row == "aen":
            total = total + s["weight"] * self._elastic(rows)
        elif s.row == "anthropic_jan25":
            total = total + s["sparsity"] * (s["scale"] * self.code * self.norms).tanh().sum() / rows
            total = total + s["lift"] * ((self.theta - self.z).clamp(min=0) * self.norms).sum() / rows
        elif s.row == "t_sae":
            total = total + s["contrast"] * self._contrast()
        elif s.row == "adaptive_k":
            square = self.error.detach().pow(2).sum(1)
            wanted = square / (square + square.mean()).clamp(min=1e-30)
            total = total + s["complexity"] * (self._shares() - wanted).pow(2).mean()
        elif s.row == "lista":
            total = total + s["l1"] * (self.code * self._sizes()).sum() / rows
        elif s.row == "gemma_scope_2":
            active = _Step.apply(self.z.detach(), self.theta, s["bandwidth"]) / rows  # type: ignore[no-untyped-call]
            total = total + s["weight"] * (active.sum() / s["l0"] - 1) ** 2
            total = total + s["frequency"] * (active.sum(0) - s["limit"]).clamp(min=0).sum()
            self._keep_away_from_zero(active.sum(0) - s["limit"])
        elif s.row == "ortsae":
            total = total + s["ortho"] * self._neighbours()
        elif s.row == "delta_crosscoder":
            a, b = torch.split(self.error, list(self.at.widths), dim=1)
            total = total + s["delta"] * (b - a).pow(2).sum() / rows
        elif s.row == "binary":
            total = total + s["l0"] * self.code.sum() / rows
        elif s.row == "multi_topk":
            wide = self.z.clamp(min=0) * self._cut(first_of_row(self.z, s["k"] * s["factor"]))
            error = self.at.x_r - self.offset - wide @ self.arrays["W_D"].T
            total = total + s["weight"] * error.pow(2).sum() / rows
        if s.arguments.get("aux"):
            total = total + s["aux"] * self._auxiliary()
        return total

    def _sizes(self) -> Tensor:
        """What a penalty weighs a latent with: its decoder norm; a crosscoder's, summed over the sources."""
        if self.spec.pairing not in ("crosscoder", "weakly_causal"):
            return self.norms
        parts = torch.split(self.arrays["W_D"], list(self.at.widths))
        return torch.stack([part.pow(2).sum(0).clamp(min=1e-30).sqrt() for part in parts]).sum(0)

    def _elastic(self, rows: int) -> Tensor:
        """Small latents weigh more; squares."""
        size = self.code * self.norms
        mean = self.at.state.get("mean", torch.zeros_like(size[0]))
        mean = self.at.state["mean"] = mean + 0.01 * (size.detach().sum(0) / rows - mean)
        weight = 1 / (mean + 0.01) ** self.spec["power"]
        return (size * weight / weight.mean()).sum() / rows + self.spec["ridge"] * (size**2).sum() / rows

    def _annealed(self) -> Tensor:
        """Lp, p falling from 1 between a fifth and the end of the run in equal steps; its value never jumps."""
        s, at, eps = self.spec, self.at, 1e-3
        moment, last = at.step * s["updates"] // at.steps, max(s["updates"] - 1, 1)
        p = 1.0 + (s["p"] - 1.0) * min(max((moment / last - 0.2) / 0.8, 0.0), 1.0)
        size = self.code.abs() * self._sizes()

        def penalty(power: float) -> Tensor:
            return ((size + eps) ** power - eps**power).sum() / max(len(size), 1)

        state, value = at.state, penalty(p)
        before = state.setdefault("p", 1.0)
        if p != before:
            old, new = float(penalty(before).detach()), float(value.detach())
            state["scale"] = state.get("scale", 1.0) * (old / new if new > 0 else 1.0)
            state["p"] = p
        return state.get("scale", 1.0) * value

    def _whole(self, rows: int) -> Tensor:
        """The term that asks for all of x_r."""
        if self.spec.row == "matryoshka":
            return self._nested()
        if self.spec.row == "ordered_matryoshka":
            return self._by_rate() / rows
        if self.spec.row == "gemma_scope_2":
            return self._nested() / len(self.spec["fractions"])
        if self.spec.row == "t_sae":
            return (self._nested((self.spec["share"],)) + self.error.pow(2).sum() / rows) / 2
        if self.spec.row == "hier_topk":
            return self._every_k() / rows
        return self.error.pow(2).sum() / rows

    def _every_k(self) -> Tensor:
        """The mean over j of the squared error of the j largest latents of each row."""
        total, k = torch.zeros((), dtype=self.z.dtype), self.spec["k"]
        for j in range(1, k + 1):
            kept = self.code * self._cut(first_of_row(self.code, j))
            total = total + (self.at.x_r - self.offset - kept @ self.arrays["W_D"].T).pow(2).sum() / k
        return total

    def _neighbours(self) -> Tensor:
        """The squared cosine of every column with its nearest neighbour, where the angle is less than a right one."""
        unit = self.arrays["W_D"] / self.norms.clamp(min=1e-12)
        cosines = unit.T @ unit - 3 * torch.eye(unit.shape[1], dtype=unit.dtype)
        if len(cosines) < 2:
            return cosines.sum() * 0
        first = cosines.detach().topk(min(2, len(cosines) - 1), dim=1).values
        self.margin = min(self.margin, float((first[:, 0] - first[:, -1]).min()) if first.shape[1] == 2 else 1.0)
        self._keep_away_from_zero(first[:, 0])
        return cosines.max(1).values.clamp(min=0).pow(2).mean()

    def _by_rate(self) -> Tensor:
        """Prefixes by falling firing rate; a group learns from its own prefix's error alone."""
        fires = (self.code.detach() != 0).double().mean(0)
        rate = self.at.state.get("rate", torch.zeros_like(fires))
        rate = self.at.state["rate"] = rate + 0.01 * (fires - rate)
        total, inner = torch.zeros((), dtype=self.z.dtype), torch.zeros_like(self.at.x_r)
        last = dict.fromkeys(self.prefixes, 0)
        for fraction in self.spec["fractions"]:
            mask = torch.zeros(self.z.shape[1], dtype=self.z.dtype)
            for first, end in self.prefixes:
                order = sorted(range(first, end), key=lambda j: (-float(rate[j]), j))
                size = max(1, round(fraction * (end - first)))
                mask[order[last[first, end] : size]] = 1
                last[first, end] = size
            own = (self.code * mask) @ self.arrays["W_D"].T
            total = total + (self.at.x_r - self.offset - inner - own).pow(2).sum()
            inner = inner + own.detach()
        return total

    def _prefix(self, fraction: float) -> Tensor:
        """A mask of the first latents of each run."""
        mask = torch.zeros(self.z.shape[1], dtype=self.z.dtype)
        for first, last in self.prefixes:
            mask[first : first + max(1, round(fraction * (last - first)))] = 1
        return mask

    def _contrast(self) -> Tensor:
        """Rows 2 i and 2 i + 1 are alike on the first latents, each against the other pairs, both ways."""
        pairs = len(self.code) // 2
        first = self.code * self._prefix(self.spec["share"])
        cos = torch.zeros(pairs, pairs, dtype=self.z.dtype)
        for i in range(pairs):
            for j in range(pairs):
                u, v = first[2 * i], first[2 * j + 1]
                if bool((u != 0).any()) and bool((v != 0).any()):
                    cos[i, j] = (u * v).sum() / ((u * u).sum() * (v * v).sum()).sqrt()
        total = torch.zeros((), dtype=self.z.dtype)
        for i in range(pairs):
            total = total - (cos[i, i].exp() / cos[i].exp().sum()).log() / 2 / pairs
            total = total - (cos[i, i].exp() / cos[:, i].exp().sum()).log() / 2 / pairs
        return total

    def _nested(self, fractions: Sequence[float] = ()) -> Tensor:
        """Every prefix reconstructs by itself."""
        total, a = torch.zeros((), dtype=self.z.dtype), self.arrays
        for fraction in fractions or self.spec["fractions"]:
            mask = self._prefix(fraction)
            error = self.at.x_r - self.offset - (self.code * mask) @ a["W_D"].T
            total = total + error.pow(2).sum() / max(len(error), 1)
        return total

    def _auxiliary(self) -> Tensor:
        """AuxK of Gao et al.: the dead latents of largest z reconstruct the residual, over its variance."""
        if not bool(self.at.dead.any()):
            return torch.zeros((), dtype=self.z.dtype)
        error = self.error.detach()
        chosen = self._cut(first_of_row(self.z, max(error.shape[1] // 2, 1), self.at.dead))
        rest = error - (self.z.clamp(min=0) * chosen) @ self.arrays["W_D"].T
        spread = _spread(error)
        return rest.pow(2).sum() / spread if float(spread) > 0 else torch.zeros((), dtype=self.z.dtype)
