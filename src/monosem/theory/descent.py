"""Adam on exact losses, many random starts at once, and the share of starts that anchoring brings to recovery."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.seeds import torch_generator
from monosem.theory.problem import Atoms, Problem, sigma


@dataclass(frozen=True)
class DescentConfig:
    """How to descend. The first `anchors` latents start at the true features of the same number and are held there by
    `weight` (||w_E^i - w_p^i||^2 + ||w_D^i - w_r^i||^2). `revive`: nothing, resampling every `every` steps up to
    60 % of the run, or AuxK: alpha ||e - W_D relu(z)||^2 over dead latents, e the residual held constant."""

    steps: int = 1500
    lr: float = 0.02
    anchors: int = 0
    weight: float = 0.1
    start_at_anchors: bool = True
    revive: Literal["none", "resample", "auxk"] = "none"
    every: int = 200
    alpha: float = 1 / 32
    l1: float = 0.0

    def resamples(self, step: int) -> bool:
        """Whether dead latents start again after this step."""
        return self.revive == "resample" and step > 0 and step % self.every == 0 and step < 0.6 * self.steps


@dataclass(frozen=True, eq=False)
class Descended:
    """Where the runs ended: dictionaries, their exact losses, and which latents no atom activates."""

    W_D: Float[Tensor, "runs n_r n_q"]
    W_E: Float[Tensor, "runs n_q n_p"]
    loss: Float[Tensor, " runs"]
    dead: Bool[Tensor, "runs n_q"]


def codes(problem: Problem, W_E: Float[Tensor, "runs n_q n_p"], atoms: Atoms) -> Float[Tensor, "runs atoms n_q"]:
    """sigma(W_E x_p) for every run and atom."""
    z = atoms.x_p @ W_E.transpose(1, 2)
    return sigma(problem.activation, z.reshape(-1, z.shape[2]), problem.threshold).reshape(z.shape)


def run_losses(
    problem: Problem, W_D: Float[Tensor, "runs n_r n_q"], W_E: Float[Tensor, "runs n_q n_p"], atoms: Atoms
) -> Float[Tensor, " runs"]:
    """The exact loss of every run."""
    return (atoms.x_r - codes(problem, W_E, atoms) @ W_D.transpose(1, 2)).square().sum(2) @ atoms.weight


def starts(problem: Problem, runs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Unit encoder rows at random and, where widths agree, tied decoder columns (else random unit ones)."""
    generator = torch_generator(seed, "theory/starts")
    W_E = torch.randn(runs, problem.n_q, problem.n_p, generator=generator, dtype=torch.float64)
    W_E = W_E / W_E.norm(dim=2, keepdim=True)
    if problem.n_p == problem.n_r:
        return W_E.transpose(1, 2).clone(), W_E
    W_D = torch.randn(runs, problem.n_r, problem.n_q, generator=generator, dtype=torch.float64)
    return W_D / W_D.norm(dim=1, keepdim=True), W_E


def descend(
    problem: Problem,
    plan: DescentConfig,
    runs: int = 64,
    seed: int = 0,
    atoms: Atoms | None = None,
    begin: tuple[Tensor, Tensor] | None = None,
) -> Descended:
    """Full-batch Adam with a cosine schedule on the exact loss over `atoms` (default: L~), every run at once."""
    k, atoms = plan.anchors, atoms or problem.atoms
    check(k <= min(problem.n, problem.n_q), f"anchors={k} exceed n={problem.n} or n_q={problem.n_q}; use fewer")
    W_D, W_E = (t.clone() for t in (begin or starts(problem, runs, seed)))
    A_p, A_r = problem.W_p[:, :k].T, problem.W_r[:, :k]
    if plan.start_at_anchors:
        W_E[:, :k], W_D[:, :, :k] = A_p, A_r
    W_D.requires_grad_(), W_E.requires_grad_()
    optimiser = torch.optim.Adam([W_D, W_E], lr=plan.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.steps, plan.lr / 100)
    generator = torch_generator(seed, "theory/resample")
    for step in range(plan.steps):
        optimiser.zero_grad()
        H = codes(problem, W_E, atoms)
        error, dead = atoms.x_r - H @ W_D.transpose(1, 2), (H == 0).all(1)
        total = (error.square().sum(2) @ atoms.weight).sum()
        if k:
            total = total + plan.weight * ((W_E[:, :k] - A_p).square().sum() + (W_D[:, :, :k] - A_r).square().sum())
        if plan.l1:
            total = total + plan.l1 * ((H * W_D.norm(dim=1)[:, None]).sum(2) @ atoms.weight).sum()
        if plan.revive == "auxk":
            total = total + plan.alpha * _auxiliary(W_D, W_E, dead, error.detach(), atoms)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if plan.resamples(step):
            _resample(W_D, W_E, dead, error.detach(), atoms, optimiser, generator)
    with torch.no_grad():
        H = codes(problem, W_E, atoms)
        return Descended(W_D.detach(), W_E.detach(), run_losses(problem, W_D, W_E, atoms), (H == 0).all(1))


def _auxiliary(W_D: Tensor, W_E: Tensor, dead: Tensor, error: Tensor, atoms: Atoms) -> Tensor:
    """AuxK over the runs that have dead latents: what these leave of the residual."""
    z = (atoms.x_p @ W_E.transpose(1, 2)).relu() * dead[:, None]
    aux = (error - z @ W_D.transpose(1, 2)).square().sum(2) @ atoms.weight
    return aux[dead.any(1)].sum()


@torch.no_grad()
def _resample(
    W_D: Tensor, W_E: Tensor, dead: Tensor, error: Tensor, atoms: Atoms, optimiser: torch.optim.Adam, g: torch.Generator
) -> None:
    """Each dead latent starts again at an atom drawn with probability ~ weight times its squared loss."""
    for run, latent in dead.nonzero().tolist():
        chance = atoms.weight * error[run].square().sum(1).square()
        if float(chance.sum()) <= 0:
            continue
        atom = int(torch.multinomial(chance, 1, generator=g))
        W_E[run, latent] = torch.nn.functional.normalize(atoms.x_p[atom], dim=0)
        W_D[run, :, latent] = torch.nn.functional.normalize(atoms.x_r[atom], dim=0)
        for weight, cell in ((W_E, (run, latent)), (W_D, (run, slice(None), latent))):
            for name in ("exp_avg", "exp_avg_sq"):
                optimiser.state[weight][name][cell] = 0.0


@dataclass(frozen=True)
class Basin:
    """With k anchors: the share of runs that recover every feature not anchored (with its 95 % interval), the mean
    share of such features recovered, and the share of runs of loss below 1e-6."""

    anchors: int
    full: float
    low: float
    high: float
    features: float
    zero_loss: float


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, p = 1.959964, successes / trials
    centre, half = p + z * z / (2 * trials), z * (p * (1 - p) / trials + z * z / (4 * trials**2)) ** 0.5
    return max(0.0, (centre - half) / (1 + z * z / trials)), min(1.0, (centre + half) / (1 + z * z / trials))


def matched(problem: Problem, ended: Descended, tau: float = 0.95) -> Bool[Tensor, "runs n"]:
    """Which features some live latent of each run stands for: its decoder column's cosine with w_r^d exceeds tau."""
    columns = torch.nn.functional.normalize(ended.W_D, dim=1) * (~ended.dead)[:, None]
    truth = torch.nn.functional.normalize(problem.W_r, dim=0)
    return (torch.einsum("rd,bdq->brq", truth.T, columns)).amax(2) > tau


def basins(
    problem: Problem,
    ks: Sequence[int],
    atoms: Atoms | None = None,
    plan: DescentConfig | None = None,
    runs: int = 64,
    seed: int = 0,
) -> list[Basin]:
    """The basin of recovery by number of anchors, on the exact loss over `atoms` (default: L~).

    The same random starts serve every k; scored are the features k .. n - 1, which are not anchored.
    """
    out = []
    for k in ks:
        ended = descend(problem, replace(plan or DescentConfig(), anchors=k), runs, seed, atoms)
        hit = matched(problem, ended)[:, k:]
        full = int(hit.all(1).sum())
        low, high = wilson(full, runs)
        zero = float((ended.loss < 1e-6).double().mean())
        out.append(Basin(k, full / runs, low, high, float(hit.double().mean()), zero))
    return out
