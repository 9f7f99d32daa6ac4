"""Metrics of codes and reconstructions, streamed: each is a fold whose parts may be merged in any grouping."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import DataError, check
from monosem.base.registry import Registry
from monosem.base.sparse import Code

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class Coded:
    """One batch of evaluation rows: targets, reconstructions, codes, and (if known) the true features' counts."""

    target: Float[Tensor, "batch n_r"]
    reconstruction: Float[Tensor, "batch n_r"]
    code: Code
    true_l0: Int[Tensor, " batch"] | None = None


class Fold(ABC, Generic[S]):
    """A streamed metric: `of` summarises one batch, `merge` is associative with `init` as its neutral element."""

    needs_truth: ClassVar[bool] = False

    @abstractmethod
    def init(self) -> S:
        """The state of no rows."""

    @abstractmethod
    def of(self, batch: Coded) -> S:
        """The state of one batch; sums in float64."""

    @abstractmethod
    def merge(self, left: S, right: S) -> S:
        """The state of both sets of rows."""

    @abstractmethod
    def compute(self, state: S) -> float:
        """The metric."""

    def update(self, state: S, batch: Coded) -> S:
        """The state with one batch more."""
        return self.merge(state, self.of(batch))


@dataclass(frozen=True, eq=False)
class _Spread:
    """Rows, their mean, their squared distances from it, and the squared errors."""

    rows: int
    mean: Tensor
    spread: float
    error: float


class FVU(Fold[_Spread]):
    """Fraction of variance unexplained, a ratio of sums over all rows.

    Equation:
        sum |x_r - x_r_hat|^2 / sum |x_r - mean(x_r)|^2
    Source:
        the pairwise update of Chan, Golub and LeVeque (1983) keeps the denominator exact over batches.
    """

    def init(self) -> _Spread:
        """No rows."""
        return _Spread(0, torch.zeros((), dtype=torch.float64), 0.0, 0.0)

    def of(self, batch: Coded) -> _Spread:
        """Mean, spread and error of one batch."""
        y, error = batch.target.double(), batch.target.double() - batch.reconstruction.double()
        if y.shape[0] == 0:
            return self.init()
        mean = y.mean(0)
        return _Spread(y.shape[0], mean, float((y - mean).square().sum()), float(error.square().sum()))

    def merge(self, left: _Spread, right: _Spread) -> _Spread:
        """Spreads add, plus the squared distance between the means."""
        rows = left.rows + right.rows
        if left.rows == 0 or right.rows == 0:
            return right if left.rows == 0 else left
        apart = right.mean - left.mean
        between = float(apart.square().sum()) * left.rows * right.rows / rows
        mean = left.mean + apart * (right.rows / rows)
        return _Spread(rows, mean, left.spread + right.spread + between, left.error + right.error)

    def compute(self, state: _Spread) -> float:
        """The ratio."""
        check(state.rows > 0, "no rows to evaluate; give at least two", DataError)
        check(state.spread > 0, f"the {state.rows} targets are all equal; FVU needs rows that differ", DataError)
        return state.error / state.spread


@dataclass(frozen=True)
class _Mean:
    rows: int
    total: int


class _Counted(Fold[_Mean]):
    """The mean of a count per row."""

    @abstractmethod
    def counts(self, batch: Coded) -> Tensor:
        """The count of every row."""

    def init(self) -> _Mean:
        """No rows."""
        return _Mean(0, 0)

    def of(self, batch: Coded) -> _Mean:
        """Rows and their total."""
        counts = self.counts(batch)
        return _Mean(counts.numel(), int(counts.sum()))

    def merge(self, left: _Mean, right: _Mean) -> _Mean:
        """Both add."""
        return _Mean(left.rows + right.rows, left.total + right.total)

    def compute(self, state: _Mean) -> float:
        """Total over rows."""
        check(state.rows > 0, "no rows to evaluate; give at least one", DataError)
        return state.total / state.rows


class MeanL0(_Counted):
    """Mean number of latents that are not zero."""

    def counts(self, batch: Coded) -> Tensor:
        """Nonzero latents of every row."""
        return batch.code.row_sum((batch.code.values != 0).double())


class _TrueL0(_Counted):
    """Mean number of features that are present."""

    needs_truth = True

    def counts(self, batch: Coded) -> Tensor:
        """Present features of every row."""
        assert batch.true_l0 is not None
        return batch.true_l0


class Dead(Fold[Tensor]):
    """Share of latents that never fired on the evaluation rows."""

    def init(self) -> Tensor:
        """Nothing fired."""
        return torch.zeros((), dtype=torch.bool)

    def of(self, batch: Coded) -> Tensor:
        """Which latents fired."""
        return batch.code.latent_sum((batch.code.values != 0).double()) > 0

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """Fired in either."""
        return left | right

    def compute(self, state: Tensor) -> float:
        """The share that did not fire."""
        check(state.ndim == 1, "no rows to evaluate; give at least one", DataError)
        return float((~state).double().mean())


CODE_METRICS: Registry[Fold[Any]] = Registry("code metric")
CODE_METRICS.add("fvu", FVU())
CODE_METRICS.add("l0", MeanL0())
CODE_METRICS.add("dead", Dead())
CODE_METRICS.add("true_l0", _TrueL0())


def evaluate(batches: Iterable[Coded]) -> dict[str, float]:
    """Every code metric over a stream of batches; those that need the truth only where it is known."""
    states: dict[str, Any] = {}
    for batch in batches:
        for name, fold in CODE_METRICS.items():
            if batch.true_l0 is not None or not fold.needs_truth:
                states[name] = fold.update(states.get(name, fold.init()), batch)
    check(bool(states), "no batches to evaluate; give at least one", DataError)
    return {name: CODE_METRICS[name].compute(state) for name, state in states.items()}
