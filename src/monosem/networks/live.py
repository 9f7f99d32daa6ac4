"""Training rows straight from a network, never stored: shuffled in a large buffer, and the same rows at every call."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.base.errors import DataError, check
from monosem.base.seeds import torch_generator
from monosem.base.spec import digest
from monosem.core.units import Units
from monosem.data.batches import Batch, Pool, TokenFilter, number_documents
from monosem.networks.harvest import Runner, fingerprint
from monosem.networks.sites import Site

BUFFER_ROWS = 65536
"""Rows that are shuffled together, unless said otherwise."""


class LiveSource:
    """A stream of rows of a network's sites: x_p from `read`, x_r from `write` (None: x_r = x_p).

    Every epoch visits the batches in a keyed permutation, and cuts the rows that they give into blocks of `buffer`
    rows, each put in a keyed permutation. Row r of the stream is therefore a function of r and the seed alone: a
    training that was killed goes on with the same rows, after running the batches of one block again. Two rows of one
    batch are at most about one block apart: a window, not the permutation over all rows that a store gives.
    `batches` are held in memory (tokens, not activations). With `normalise`, units are those of the first block.
    `module`, `keep`, `pool`, `stop`: as for `harvest`.
    """

    rows: int | None = None

    def __init__(
        self,
        module: nn.Module | Mapping[str, nn.Module],
        read: str,
        write: str | None,
        batches: Iterable[Any],
        *,
        keep: TokenFilter | None = None,
        pool: Pool = "none",
        buffer: int = BUFFER_ROWS,
        seed: int = 0,
        normalise: bool = True,
        stop: bool = True,
    ) -> None:
        check(buffer >= 1, f"buffer={buffer}; it holds at least one row")
        self.runner = Runner.of(module, read if write is None else f"{read}; {write}", pool, stop)
        reads = Runner.of(module, read, pool, stop).sites
        writes = reads if write is None else Runner.of(module, write, pool, stop).sites
        self._read, self._write = ([self.runner.sites.index(s) for s in side] for side in (reads, writes))
        self.runner.check_evaluating()
        self.batches = tuple(number_documents(batches, keep))
        check(bool(self.batches), "no batches to read; give at least one", DataError)
        time, widths = self.runner.shape(self.runner.raw(self.batches[0]), self.batches[0])
        self.counts = tuple(batch.count(time, pool) for batch in self.batches)
        self.epoch_rows = sum(self.counts)
        check(self.epoch_rows > 0, "the batches hold no row that is kept; loosen the token filter", DataError)
        self.p_widths = tuple(widths[i] for i in self._read)
        self.r_widths = tuple(widths[i] for i in self._write)
        self.buffer, self.seed = min(buffer, self.epoch_rows), seed
        self._blocks: dict[tuple[int, int], list[Tensor]] = {}
        self.units: Units | None = None
        self._digest = self._digest_of(reads, writes, buffer)
        if normalise:
            self.units = Units.of(*self._raw(torch.arange(self.buffer)), self.p_widths, self.r_widths)

    def _digest_of(self, reads: Sequence[Site], writes: Sequence[Site], buffer: int) -> str:
        return digest(
            {
                "models": {name: fingerprint(model) for name, model in self.runner.models.items()},
                "sites": [[str(site) for site in side] for side in (reads, writes)],
                "batches": [_contents(batch) for batch in self.batches],
                "pool": self.runner.pool,
                "buffer": buffer,
                "seed": self.seed,
            }
        )

    @property
    def digest(self) -> str:
        """Of the network, the batches and the order."""
        return self._digest if self.units is None else f"{self._digest}@{self.units.digest}"

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Rows of the stream by number, as float32, in the units of training."""
        rows = self._raw(index)
        return rows if self.units is None else self.units.both(*rows)

    def _raw(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        epoch, within = index // self.epoch_rows, index % self.epoch_rows
        block, place = within // self.buffer, within % self.buffer
        where = torch.stack([epoch, block], 1)
        parts: list[tuple[Tensor, list[Tensor]]] = []
        for key in where.unique(dim=0).tolist():  # type: ignore[no-untyped-call]
            cells = (where == torch.tensor(key)).all(1).nonzero()[:, 0]
            parts.append((cells, [x[place[cells]] for x in self._block(key[0], key[1])]))
        order = torch.cat([cells for cells, _ in parts]).argsort()
        xs = [torch.cat([rows[i] for _, rows in parts])[order] for i in range(len(self.runner.sites))]
        x_p = torch.cat([xs[i] for i in self._read], 1)
        return x_p, x_p if self._read == self._write else torch.cat([xs[i] for i in self._write], 1)

    def _block(self, epoch: int, block: int) -> list[Tensor]:
        """The shuffled rows of a block, one tensor per site; the last two are kept."""
        if (epoch, block) not in self._blocks:
            first = block * self.buffer
            last = min(first + self.buffer, self.epoch_rows)
            rows = self._run(epoch, first, last)
            mixed = torch.randperm(last - first, generator=torch_generator(self.seed, "live/rows", epoch, block))
            while len(self._blocks) > 1:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[epoch, block] = [x[mixed] for x in rows]
        return self._blocks[epoch, block]

    def _run(self, epoch: int, first: int, last: int) -> list[Tensor]:
        """Rows [first, last) of an epoch, in the order in which the network gives them."""
        order = torch.randperm(len(self.batches), generator=torch_generator(self.seed, "live/batches", epoch)).tolist()
        parts: list[list[Tensor]] = []
        start = 0
        for number in order:
            stop = start + self.counts[number]
            if stop > first and start < last:
                xs, _ = self.runner.rows(self.batches[number])
                parts.append([x[max(0, first - start) : last - start].float().cpu() for x in xs])
            start = stop
        return [torch.cat(list(site)) for site in zip(*parts, strict=True)]


def _contents(batch: Batch) -> str:
    """sha256 of what a batch gives to the network, and of what is kept of it."""
    inputs = dict(batch.inputs) if isinstance(batch.inputs, Mapping) else {"": batch.inputs}
    total = hashlib.sha256()
    for name, x in (inputs | {"keep": batch.keep}).items():
        total.update(f"{name} {x.dtype} {tuple(x.shape)}".encode() if isinstance(x, Tensor) else f"{name} {x}".encode())
        if isinstance(x, Tensor):
            total.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
