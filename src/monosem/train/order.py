"""Which rows each step of a run sees."""

import torch
from jaxtyping import Int
from torch import Tensor

from monosem.base.seeds import key, torch_generator


class Order:
    """Which rows a step sees: a pure function of the step, so that a run has no data cursor to save.

    A fixed set of rows is visited by one keyed permutation per epoch, without gaps between epochs; a stream
    is read forward from an offset that the seed decides.
    """

    def __init__(self, rows: int | None, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def _of_epoch(self, epoch: int) -> Int[Tensor, " rows"]:
        if epoch != self._epoch:
            assert self.rows is not None
            self._permutation = torch.randperm(self.rows, generator=torch_generator(self.seed, "order", epoch))
            self._epoch = epoch
        return self._permutation

    def index(self, step: int) -> Int[Tensor, " batch"]:
        """The rows of one step."""
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        if self.rows is None:
            offset = key(self.seed, "stream") % 2**20 * 2**36
            return torch.arange(offset + start, offset + stop)
        parts = []
        while start < stop:
            epoch, begin = divmod(start, self.rows)
            take = min(stop - start, self.rows - begin)
            parts.append(self._of_epoch(epoch)[begin : begin + take])
            start += take
        return parts[0] if len(parts) == 1 else torch.cat(parts)
