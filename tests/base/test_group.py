"""A group of one, and of threads that stand for processes: what every operation gives, and the sum's gradient."""

import torch

from monosem.base.group import ALONE, Group
from tests.group import together


def test_alone_returns_its_argument() -> None:
    x = torch.randn(3, requires_grad=True)
    assert (ALONE.rank, ALONE.size) == (0, 1)
    assert all(operation(x) is x for operation in (ALONE.sum, ALONE.total, ALONE.max, ALONE.any, ALONE.gather))


def test_every_process_gets_what_all_have() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def operations(group: Group) -> tuple[torch.Tensor, ...]:
        mine = x[group.rank]
        ragged = group.gather(torch.full((group.rank,), group.rank))
        return group.sum(mine), group.max(mine), group.any(mine > 1), group.gather(mine[None]), ragged

    for total, largest, anywhere, whole, ragged in together(4, operations):
        assert torch.equal(total, ((x[0] + x[1]) + x[2]) + x[3])
        assert torch.equal(largest, x.amax(0))
        assert torch.equal(anywhere, (x > 1).any(0))
        assert torch.equal(whole, x)
        assert ragged.tolist() == [1, 2, 2, 3, 3, 3]


def test_a_sum_gives_each_process_the_gradient_of_its_own_summand() -> None:
    """d (x_0 + x_1)^2 / d x_rank, on each, from what each computes by itself."""

    def own(group: Group) -> torch.Tensor:
        mine = torch.tensor(float(3 + group.rank), requires_grad=True)
        (gradient,) = torch.autograd.grad(group.sum(mine).square(), mine)
        return gradient

    assert [float(g) for g in together(2, own)] == [14.0, 14.0]
