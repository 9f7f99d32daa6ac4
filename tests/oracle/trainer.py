"""A training loop of its own: project, clip, Adam, renormalise, thresholds, dead counters; plain arrays, float64."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.oracle.model import Arrays, Batch, Oracle, Spec

Rows = tuple[Tensor, Tensor]
FREE = ("binary", "anthropic_jan25")
"""Rows whose columns may have any length."""


@dataclass
class Trainer:
    """Adam on plain arrays, by the papers' own steps."""

    spec: Spec
    arrays: Arrays
    support: Arrays
    """Where W_E and W_D have entries; nothing exists outside."""
    prefixes: Sequence[tuple[int, int]]
    widths: tuple[int, ...]
    lr: float
    steps: int
    window: int
    clip: float | None = None
    rate: float = 0.01
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    since: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.since = torch.zeros(self.arrays["W_E"].shape[0], dtype=torch.int64)

    @property
    def trained(self) -> list[str]:
        """Names of what learns."""
        return [name for name in self.arrays if name not in ("tied", "threshold")]

    def step(self, rows: Rows, number: int) -> tuple[float, float]:
        """One step; returns its loss, and how far it was from choosing otherwise."""
        for name in self.trained:
            self.arrays[name] = self.arrays[name].detach().requires_grad_()
        dead = self.since > self.window
        at = Batch(*rows, dead, number, self.steps, self.widths, self.state)
        oracle = Oracle(self.spec, self.arrays, at, self.prefixes)
        loss = oracle.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self._observe(oracle)
            self._move(self._gradients(), number)
            self.since += rows[0].shape[0]
            self.since[(oracle.code != 0).any(0)] = 0
        return float(loss.detach()), oracle.margin

    def _observe(self, oracle: Oracle) -> None:
        """BatchTopK's threshold: a running mean of the smallest value that passed."""
        if self.spec.row == "feature_choice":
            least = torch.where(oracle.code > 0, oracle.code, torch.inf).min(0).values
            now = self.arrays["threshold"]
            moved = torch.where(now < 0, least, now + self.rate * (least - now))
            self.arrays["threshold"] = torch.where(least.isfinite(), moved, now)
            return
        passed = oracle.code[oracle.code > 0]
        if "threshold" in self.arrays and passed.numel():
            least, now = float(passed.min()), float(self.arrays["threshold"])
            self.arrays["threshold"] = torch.tensor(least if now < 0 else now + self.rate * (least - now))

    def _gradients(self) -> Arrays:
        """Masked, projected off the decoder's columns, clipped."""
        gradients = {}
        for name in self.trained:
            g = self.arrays[name].grad
            g = torch.zeros_like(self.arrays[name]) if g is None else g
            gradients[name] = g * self.support[name] if name in self.support else g
        if self.spec.row == "aligned":
            gradients |= self._reparametrised(gradients)
        if self.spec.row not in FREE:
            W_D = self.arrays["W_D"]
            along = (gradients["W_D"] * W_D).sum(0) / W_D.pow(2).sum(0)
            gradients["W_D"] = gradients["W_D"] - W_D * along
        if self.clip is not None:
            norm = sum(float(g.pow(2).sum()) for g in gradients.values()) ** 0.5
            gradients = {name: g * min(1.0, self.clip / (norm + 1e-6)) for name, g in gradients.items()}
        return gradients

    def _reparametrised(self, gradients: Arrays) -> Arrays:
        """Gradients of v and d in W_E = v + (1 - <v, d>) d / ||d||^2 at v = W_E, by autograd; d only turns."""
        v = self.arrays["W_E"].detach().clone().requires_grad_()
        d = self.arrays["W_D"].detach().T.clone().requires_grad_()
        with torch.enable_grad():
            W_E = v + (1 - (v * d).sum(1, keepdim=True)) * d / d.pow(2).sum(1, keepdim=True)
            pull = (W_E * gradients["W_E"]).sum() + (d * gradients["W_D"].T).sum()
        of_v, of_d = torch.autograd.grad(pull, (v, d))
        return {"W_E": of_v, "W_D": of_d.T}

    def _move(self, gradients: Arrays, number: int) -> None:
        """Adam with bias correction; the rate warms up over a twentieth and falls to 0 over the last fifth."""
        done = min(max((number / self.steps - 0.8) / 0.2, 0.0), 1.0)
        lr = self.lr * min(1.0, (number + 1) / max(0.05 * self.steps, 1.0)) * (1 - done)
        for name, g in gradients.items():
            first, second = self.moments.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            self.moments[name] = (first, second)
            t = number + 1
            change = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
            self.arrays[name] = self.arrays[name].detach() - lr * change
        if self.spec.row not in FREE:
            self.arrays["W_D"] = self.arrays["W_D"] / self.arrays["W_D"].pow(2).sum(0).sqrt()
        if self.spec.row == "aligned":
            d = self.arrays["W_D"].T
            missing = 1 - (self.arrays["W_E"] * d).sum(1, keepdim=True)
            self.arrays["W_E"] = self.arrays["W_E"] + missing * d / d.pow(2).sum(1, keepdim=True)
        if self.spec.row == "dense_branch":
            U, S, Vh = torch.linalg.svd(self.arrays["W_skip"], full_matrices=False)
            S[self.spec["rank"] :] = 0
            self.arrays["W_skip"] = (U * S) @ Vh
        if "theta" in self.arrays:
            self.arrays["theta"] = self.arrays["theta"].clamp(min=0)
