"""Annotations of arguments stand alone: the axes that a caller's own checked function has bound are not asked."""

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.guard import guarded


@guarded
def _width(x: Float[Tensor, "rows n"]) -> int:
    return x.shape[1]


@pytest.mark.usefixtures("as_in_production")
def test_axes_of_the_caller_are_not_those_of_the_argument() -> None:
    with jaxtyping.jaxtyped("context"):
        assert isinstance(torch.zeros(3), Float[Tensor, " n"])
        assert _width(torch.zeros(2, 5)) == 5
    with pytest.raises(ValueError, match="give a tensor"):
        _width(torch.zeros(2))
