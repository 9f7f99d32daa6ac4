"""Adam over every row, each read once and written once, with float32 masters of bf16 parameters."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import DataError, check
from monosem.kernels.gpu.rows import WIDEST, RowStep

_CUT = 1024
"""A parameter that is no matrix, or a very wide one, is cut into rows of at most this many entries."""


class DenseAdam(torch.optim.Optimizer):
    """torch.optim.Adam through `RowStep`: every row moves on every step, whether its gradient is zero or not.

    A bf16 parameter has a float32 master in its state: the step is taken there and the parameter is its rounding.
    State names are torch's (step, exp_avg, exp_avg_sq) and `master`. `scale`, a scalar on the device, multiplies each
    gradient: clipping without another pass. `project` and `unit`, per group, are for matrices with rows of unit norm.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        project: bool = False,
        unit: bool = False,
    ) -> None:
        check(lr >= 0, f"lr={lr}; it must not be negative")
        check(all(0 <= b < 1 for b in betas), f"betas={betas}; each must be at least 0 and below 1")
        check(eps >= 0, f"eps={eps}; it must not be negative")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "project": project, "unit": unit})
        self.scale: Tensor | float = 1.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but moments and masters of a bf16 parameter stay float32."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        mine = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, mine, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if name != "step":
                    self.state[parameter][name] = value.detach().to(parameter.device, torch.float32, copy=True)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, low = self.state[parameter], parameter.dtype == torch.bfloat16
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
            if low:
                state["master"] = parameter.detach().to(torch.float32, copy=True).contiguous()
        state["step"] += 1
        assert parameter.grad is not None
        check(parameter.is_contiguous(), f"a parameter of shape {tuple(parameter.shape)} is not contiguous", DataError)
        rows = parameter.ndim == 2 and parameter.shape[1] <= WIDEST
        tensors = [state["master"] if low else parameter.detach(), parameter.grad.contiguous()]
        tensors += [state["exp_avg"], state["exp_avg_sq"], *([parameter.detach()] if low else [])]
        weight, gradient, mean, square, *copy = tensors if rows else [_cut(tensor) for tensor in tensors]
        row_step = RowStep(
            weight, gradient, (), (0, weight.shape[1]), rows and group["project"], rows and group["unit"]
        )
        row_step.adam(
            mean, square, None, int(state["step"]), group["lr"], group["betas"], group["eps"],
            self.scale, copy[0] if copy else None,
        )  # fmt: skip


def _cut(tensor: Tensor) -> Tensor:
    """Any contiguous tensor as rows of one short length, for what treats all entries alike."""
    return tensor.view(-1, math.gcd(tensor.numel(), _CUT))
