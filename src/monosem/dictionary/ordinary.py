"""Rows that hold no more than others do: what is left when massive activations are taken out."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import check


def ordinary_rows(x: Float[Tensor, "rows d"], times: float = 10.0) -> Bool[Tensor, " rows"]:
    """Which rows are at most `times` as far from the median row as nine in ten rows are.

    A network's first token, and few others, may be a hundred times as long as the rest. They then hold nearly all of
    the energy, and whatever is fitted to the rows is fitted to them.

    Equation:
        |x - median| <= times q,  q = the 90 % quantile of |x - median|;  every row where q = 0

    Example:
        >>> ordinary_rows(torch.cat([torch.eye(30), 500.0 * torch.ones(1, 30)])).logical_not().nonzero().tolist()
        [[30]]
    """
    check(times > 1.0, f"times = {times} must be above 1; it is a factor on the length of ordinary rows")
    length = (x - x.median(0).values).norm(dim=1)
    most = length.kthvalue(max(1, round(0.9 * length.numel()))).values
    return length <= times * most if float(most) > 0 else torch.ones_like(length, dtype=torch.bool)
