"""How gradients become steps: Adam, or a value of a method's text in its place, as in `topk(k=32) | muon`.

Every optimiser takes `schedule`, a factor of the learning rate over the run in place of the configuration's, and `ema`:
the finished model then has the running mean of the weights in place of the last ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.base.group import ALONE, Group
from monosem.base.registry import Registry
from monosem.base.schedule import Course, WarmupDecay
from monosem.core.model import SDL

Betas = tuple[float, float]


@dataclass(frozen=True)
class Optimiser(ABC):
    """What every optimiser shares.

    Equation: with ema = r > 0, a_t = a_t-1 + (1 - r) / (1 - r^t) (w_t - a_t-1) beside the weights w_t, the mean of
        w_1 to w_t with shares that fall by r a step; evaluation and the finished model use a_t, held by the
        method's constraints, and training goes on at w_t.
    """

    schedule: Course | None = None
    ema: float = 0.0
    points: ClassVar[tuple[str, ...]] = ()
    """Parts of its state that are weights too: constraints hold them, and a latent drawn anew starts there anew."""
    by_entry: ClassVar[bool] = False
    """Whether every entry steps by its own gradients alone, so that processes may share a weight."""

    def __post_init__(self) -> None:
        check(0 <= self.ema < 1, f"ema={self.ema}; a running mean needs 0 <= ema < 1, 0 being none")
        twice = "schedule_free_sign averages its weights already; leave ema at 0"
        check(not (self.ema and "average" in self.points), twice)

    @abstractmethod
    def over(self, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float) -> torch.optim.Optimizer:
        """The optimiser of these parameters. What its state calls `average` is what the finished model has."""

    def over_shards(
        self, model: SDL, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float
    ) -> torch.optim.Optimizer:
        """The same where a model has its share of the whole. Raises: RefusedError for one that needs whole matrices."""
        why = "it may ask for whole matrices, of which a process has its share; set by_entry where it does not"
        check(self.by_entry, f"{type(self).__name__} cannot go with a mesh: {why}, or take adam", RefusedError)
        return self.over(parameters, lr, betas, eps)


OPTIMISERS: Registry[type[Optimiser]] = Registry("optimiser")


@OPTIMISERS.register("adam")
@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam, with the configuration's betas and eps; the one that the fused step knows."""

    by_entry: ClassVar[bool] = True

    def over(self, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float) -> torch.optim.Optimizer:
        """Torch's own."""
        return torch.optim.Adam(parameters, lr=lr, betas=betas, eps=eps, fused=True)


@OPTIMISERS.register("muon")
@dataclass(frozen=True)
class Muon(Optimiser):
    """Momentum made orthogonal for every matrix, Adam for the rest.

    Equation: m <- momentum m + g; W <- W - lr 0.2 sqrt(max(rows, columns)) O, O near U V^T of g + momentum m = U S V^T,
        by five Newton-Schulz steps X <- a X + (b X X^T + c (X X^T)^2) X from X = u / ||u||. The factor gives O
        the root mean square of a step of Adam, so that a rate for Adam serves. Of a matrix whose rows lie in several
        processes X^T X is a sum over these, and X <- X (a + b X^T X + c (X^T X)^2) is the same step.
    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers; the factor: Liu et al. 2025, arXiv 2502.16982.
        Difference: all in float32.
    """

    momentum: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.momentum < 1, f"momentum={self.momentum}; it is at least 0 and below 1")

    def over(self, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float) -> torch.optim.Optimizer:
        """One optimiser for both kinds of parameters."""
        matrices = [Matrix(p, p.shape[0]) for p in parameters if p.ndim == 2]
        return _Muon(parameters, lr, betas, eps, self.momentum, matrices)

    def over_shards(
        self, model: SDL, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float
    ) -> torch.optim.Optimizer:
        """Every process takes part in every block, with no rows where it has none."""
        why = "W W^T of columns that lie in several processes has a number for every two latents"
        check(model.targets.size == 1, f"muon cannot go with mesh='targets=...': {why}; share by latents", RefusedError)
        mine = {id(p) for p in parameters}
        matrices = [Matrix(p, p.shape[0]) for p in (model.W_skip,) if p is not None and id(p) in mine]
        sides = [(model.whole.encoder, model.encoder), (model.whole.decoder, model.decoder)]
        for blocks, side in sides[: 1 if model.encoder.weights is model.decoder.weights else 2]:
            weights = iter(side.weights)
            for block in blocks:
                inside = block.within(range(model.first, model.first + model.n_q), range(block.left, block.right))
                own: Tensor = model.b_E.new_zeros(0, block.shape[1]) if inside is None else next(weights)
                if inside is None or id(own) in mine:
                    matrices.append(Matrix(own, block.shape[0], model.group))
        return _Muon(parameters, lr, betas, eps, self.momentum, matrices)


@OPTIMISERS.register("schedule_free_sign")
@dataclass(frozen=True)
class ScheduleFreeSign(Optimiser):
    """Steps by the gradient's sign, at a mean of the weights in place of a falling rate.

    Equation: z <- z - lr sign(g(w)); a <- (1 - c) a + c z, c = lr^2 / (sum of lr^2 so far); w = (1 - beta) z + beta a.
        The gradient is taken at w, the finished model is a.
    Source: Defazio et al. 2024, The road less scheduled, arXiv 2405.15682; with the sign as in sparsify.
    """

    schedule: Course | None = WarmupDecay(0.05, 0.0)  # noqa: RUF009 (frozen)
    beta: float = 0.95
    points: ClassVar[tuple[str, ...]] = ("z", "average")
    by_entry: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.beta < 1, f"beta={self.beta}; it is at least 0 and below 1")

    def over(self, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float) -> torch.optim.Optimizer:
        """It has no moments."""
        return _ScheduleFreeSign(parameters, lr, self.beta)


@OPTIMISERS.register("adam8")
@dataclass(frozen=True)
class Adam8(Optimiser):
    """Adam whose two moments take a byte an entry, a quarter of the memory.

    Equation: Adam's; between steps a first moment is s sign(q) (q / 127)^2 and a second s (q / 255)^4, q a byte and s
        the largest of its row (of all entries of a vector). The second is rounded up: no step is longer for it.
    Source: Dettmers et al. 2022, 8-bit optimizers via block-wise quantization, arXiv 2110.02861. Differences: powers in
        place of a table of bytes, and rows as blocks, so that a latent that is drawn anew forgets its own.
    """

    def over(self, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float) -> torch.optim.Optimizer:
        """In plain torch."""
        return _Adam8(parameters, {"lr": lr, "betas": betas, "eps": eps})


class _Adam8(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (b1, b2), eps = group["betas"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, grad = self.state[p], p.grad
                if "step" not in state:
                    state |= _written(torch.zeros_like(p), torch.zeros_like(p)) | {"step": torch.zeros(())}
                state["step"] += 1
                q, t = state["exp_avg"].to(p), float(state["step"])
                m = torch.lerp(q * q.abs() / 127**2 * state["size"], grad, 1 - b1)
                v = (state["exp_avg_sq"].to(p) / 255) ** 4 * state["size_sq"] * b2 + (1 - b2) * grad.square()
                p.addcdiv_(m, (v / (1 - b2**t)).sqrt() + eps, value=-group["lr"] / (1 - b1**t))
                state |= _written(m, v)


def _written(m: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Both moments of a parameter, a byte an entry, and the sizes of their blocks. Equation: as in `Adam8`."""
    size, size_sq = (x.amax(1, keepdim=True) if x.ndim == 2 else x.amax() for x in (m.abs(), v))
    first = m.sign() * (m.abs() / size.clamp(min=1e-38)).sqrt()
    second = (v / size_sq.clamp(min=1e-38)) ** 0.25
    bytes_of = {
        "exp_avg": (127 * first).round().to(torch.int8),
        "exp_avg_sq": (255 * second).ceil().clamp(max=255).byte(),
    }
    return bytes_of | {"size": size, "size_sq": size_sq}


class Matrix(NamedTuple):
    """Rows of a matrix, how many it has in all, and the processes that have them."""

    own: Tensor
    rows: int
    group: Group = ALONE


class _Muon(torch.optim.Adam):
    def __init__(
        self, parameters: Sequence[Tensor], lr: float, betas: Betas, eps: float, momentum: float, matrices: list[Matrix]
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, fused=True)
        self.momentum, self.matrices = momentum, matrices

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        lr = self.param_groups[0]["lr"]
        for p, rows, group in self.matrices:
            if not bool(group.any(torch.tensor([p.grad is not None]))):
                continue
            g = torch.zeros_like(p) if p.grad is None else p.grad
            m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
            m.mul_(self.momentum).add_(g)
            move = orthogonal(g + self.momentum * m, group)
            p.sub_(move, alpha=lr * 0.2 * max(rows, p.shape[1]) ** 0.5)
            p.grad = None
        super().step()


class _ScheduleFreeSign(torch.optim.Optimizer):
    def __init__(self, parameters: Sequence[Tensor], lr: float, beta: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.beta = beta

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"z": p.clone(), "average": p.clone(), "total": torch.zeros((), dtype=torch.float64)}
                state["total"] += group["lr"] ** 2
                share = group["lr"] ** 2 / float(state["total"]) if group["lr"] else 0.0
                state["z"].sub_(p.grad.sign(), alpha=group["lr"])
                state["average"].lerp_(state["z"], share)
                p.copy_(torch.lerp(state["z"], state["average"], self.beta))


def orthogonal(u: Float[Tensor, "rows columns"], group: Group = ALONE) -> Float[Tensor, "rows columns"]:
    """Near U V^T of u = U S V^T, whose other rows the group has; rows that are 0 stay 0. Equation: as in `Muon`."""
    wide = u.shape[0] <= u.shape[1] and group.size == 1
    x = (u if wide else u.T) / (group.total(u.norm().square()).sqrt() + 1e-7)
    for _ in range(5):
        gram = group.total(x @ x.T)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    made: Tensor = x if wide else x.T
    return made
