"""Weight gradients kept as cells until the optimiser reads them.

In a sparse step a weight's gradient is a sum over active cells. Writing it out as a matrix of the weight's size, and
reading it back for projection, clipping and Adam, costs as much memory traffic as Adam itself. While a ledger is
open, the two sparse operations note the cells of the weights that it names instead, and return no gradient for them.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from monosem.kernels.native.rows import CellSet


class Ledger:
    """Which cells make up the gradient of each named weight.

    `projected` are weights whose gradient will be freed of its part along each row: such a part need not be made.
    """

    def __init__(self, weights: Iterable[Tensor], projected: Iterable[Tensor] = ()) -> None:
        self._parts: dict[int, list[CellSet]] = {weight.data_ptr(): [] for weight in weights}
        self._projected = {weight.data_ptr() for weight in projected}
        self._writes: dict[int, int] = {}

    def drops(self, weight: Tensor) -> bool:
        """Whether whatever lies along the weight's own rows will be projected out of its gradient."""
        return weight.data_ptr() in self._projected

    def expect(self, weights: Iterable[Tensor]) -> None:
        """A forward pass wrote with these weights."""
        for weight in weights:
            self._writes[weight.data_ptr()] = self._writes.get(weight.data_ptr(), 0) + 1

    def alone(self, weight: Tensor) -> bool:
        """Whether this weight's gradient is noted, will be projected, and comes from one write."""
        return self.names(weight) and self.drops(weight) and self._writes.get(weight.data_ptr()) == 1

    def names(self, weight: Tensor) -> bool:
        """Whether this weight's gradient is to be noted here."""
        return weight.data_ptr() in self._parts

    def note(self, weight: Tensor, part: CellSet) -> None:
        """Add a part to a weight's gradient."""
        self._parts[weight.data_ptr()].append(part)

    def parts(self, weight: Tensor) -> list[CellSet]:
        """What was noted of a weight."""
        return self._parts[weight.data_ptr()]


class _Open(threading.local):
    """The ledgers that this thread has open: another thread's passes are another run's."""

    def __init__(self) -> None:
        self.ledgers: list[Ledger] = []


_open = _Open()


def the_ledger() -> Ledger | None:
    """The open ledger, if any."""
    return _open.ledgers[-1] if _open.ledgers else None


@contextmanager
def open_ledger(weights: Iterable[Tensor], projected: Iterable[Tensor] = ()) -> Iterator[Ledger]:
    """Note the gradients of these weights for the forward passes made inside."""
    ledger = Ledger(weights, projected)
    _open.ledgers.append(ledger)
    try:
        yield ledger
    finally:
        _open.ledgers.remove(ledger)
