"""Training rows straight from a network, which runs ahead of training in a thread of its own; nothing is stored."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from monosem.base.errors import DataError, check
from monosem.base.group import ALONE, Group, agreed, in_step
from monosem.base.seeds import torch_generator
from monosem.base.spec import digest
from monosem.data.batches import Batch, Pool, TokenFilter, number_documents
from monosem.data.ring import Piece
from monosem.data.stream import BUFFER_ROWS, StreamSource
from monosem.networks.harvest import Runner, fingerprint

T = TypeVar("T")
Batches = Iterable[Any] | Callable[[], Iterable[Any]]
"""What `harvest` takes; a function makes it anew, for an iterator that can be read once."""


class LiveSource(StreamSource):
    """A stream of rows of a network's sites: x_p from `read`, x_r from `write` (None: x_r = x_p).

    The network runs ahead of training, into a ring of `buffer` rows on the dictionary's `device` in `dtype`
    (data/stream.py). `batches` are gone through again and again: a list in a keyed permutation of its own every time,
    anything else (a DataLoader, a dataset, a text stream, a function that makes an iterator) in its order; an iterator
    is read once. None is kept. Row r is a function of r and the seed: a training that was killed goes on with the same
    rows. Batches with `state_dict` and `load_state_dict` (torchdata's, `datasets`', TextStream) are resumed there with
    a `cursor` file; others are read again up to that place, without running the network.
    `about` describes the batches, for the run's identity; the first batch is part of it in any case.
    `group`: the processes that train on the stream, each with the network and the same batches. Each runs every P-th
    batch and sends its rows to the others, so that no batch runs twice and all see the rows that one process would. A
    network that is split over them runs every batch in all, as rows are taken.
    `module`, `keep`, `pool`, `stop`: as for `harvest`. Others: as for StreamSource.
    """

    def __init__(
        self,
        module: nn.Module | Mapping[str, nn.Module],
        read: str,
        write: str | None,
        batches: Batches,
        *,
        keep: TokenFilter | None = None,
        pool: Pool = "none",
        buffer: int = BUFFER_ROWS,
        seed: int = 0,
        normalise: bool = True,
        stop: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        cursor: str | Path | None = None,
        norm_limit: float | None = None,
        about: Any = None,
        group: Group = ALONE,
    ) -> None:
        runner = Runner.of(module, read if write is None else f"{read}; {write}", pool, stop).evaluating()
        self.producer = _Network(runner, batches, keep, seed, about, group)
        if self.producer.rows is not None:
            buffer = min(buffer, self.producer.rows)
        self.producer.share(dtype, buffer // 4)
        options: dict[str, Any] = {
            "buffer": buffer,
            "seed": seed,
            "device": device,
            "dtype": dtype,
            "normalise": normalise,
        }
        options |= {"norm_limit": norm_limit, "cursor": cursor, "group": group}
        sides = self.sites_of(read), None if write is None else self.sites_of(write)
        super().__init__(self.producer, *sides, **options)

    def sites_of(self, text: str) -> tuple[int, ...]:
        """The numbers of the sites that a text means, for `view`. Raises: ArgumentError for one that is not run."""
        runner = self.producer.runner
        sites = Runner.of(runner.models, text, runner.pool).sites
        absent = [str(site) for site in sites if site not in runner.sites]
        check(not absent, f"{absent} are not read by this stream; name them when it is made")
        return tuple(runner.sites.index(site) for site in sites)


class _Pass(NamedTuple):
    """A batch that is run, the state before it, and how many of its rows are left out."""

    batch: Batch
    state: Any
    drop: int


class _Network:
    """Rows of a network, batch after batch; of several processes each runs every P-th of them."""

    def __init__(
        self, runner: Runner, batches: Batches, keep: TokenFilter | None, seed: int, about: Any, group: Group
    ) -> None:
        self.runner, self.keep, self.seed, self.group = runner, keep, seed, group
        self._batches, self._begun = batches, False
        self._once = not callable(batches) and iter(batches) is batches
        items = self._items(0)
        self._start = copy.deepcopy(items.state_dict()) if _saves(items) else None
        first = next(iter(items), None)
        if first is None:
            raise DataError("no batches to read; give at least one")
        if self._once:
            self._batches = chain([first], batches)  # type: ignore[arg-type]
        batch = next(number_documents([first], keep))
        self.time, self.widths = runner.shape(outputs := runner.raw(batch), batch)
        runner.check_together(outputs, group)
        self._first = batch.count(self.time, runner.pool)
        self.rows = self._counted(batches) if isinstance(batches, Sequence) else None
        self.digest = digest(
            {
                "models": {name: fingerprint(model) for name, model in runner.models.items()},
                "sites": [str(site) for site in runner.sites],
                "first": _contents(batch),
                "batches": len(batches) if isinstance(batches, Sequence) else None,
                "about": about,
                "pool": runner.pool,
                "seed": seed,
            }
        )

        agreed(group, self.digest, "give every process the same network and the same batches")

    def _counted(self, batches: Sequence[Any]) -> int:
        """Rows of a list of batches."""
        counts = (batch.count(self.time, self.runner.pool) for batch in number_documents(batches, self.keep))
        rows = sum(counts)
        check(rows > 0, "the batches hold no row that is kept; loosen the token filter", DataError)
        return rows

    def _items(self, epoch: int) -> Any:
        """The raw batches of an epoch."""
        batches = self._batches() if callable(self._batches) else self._batches
        if not isinstance(batches, Sequence):
            return batches
        order = torch.randperm(len(batches), generator=torch_generator(self.seed, "live/batches", epoch))
        return (batches[number] for number in order.tolist())

    def share(self, dtype: torch.dtype, room: int) -> None:
        """Of several processes, run at most `room` rows ahead over all of them; rows are sent in `dtype`."""
        self._dtype, self._ahead = dtype, max(1, room // max(1, self.group.size * self._first))

    def pieces(self, state: Any, drop: int) -> Iterator[Piece]:
        """Epoch after epoch; batches that are left out whole are not run."""
        if self._once:
            again = "an iterator cannot be read again from its start; give a function that makes it, or a larger buffer"
            check(not self._begun, again, DataError)
            self._begun = True
        passes = self._passes(state, drop)
        alone = self.group.size == 1 or self.runner.split
        for one, xs, columns in (
            ((one, *self.runner.rows(one.batch)) for one in passes) if alone else self._shared(passes)
        ):
            where = torch.stack([columns[name] for name in ("token", "document", "position")], 1)
            yield Piece([x[one.drop :] for x in xs], where[one.drop :], one.state, one.drop)

    def _passes(self, state: Any, drop: int) -> Iterator[_Pass]:
        """The batches to run, but those whose rows are all left out."""
        epoch, place = (0, None) if state is None else (state["epoch"], state)
        while True:
            ran = 0
            for before, batch in self._from(epoch, place):
                count = batch.count(self.time, self.runner.pool)
                ran += count
                if drop >= count:
                    drop -= count
                    continue
                yield _Pass(batch, before, drop)
                drop = 0
            if self._once:
                return
            check(ran > 0 or place is not None, "the batches hold no row that is kept; loosen the filter", DataError)
            epoch, place = epoch + 1, None

    def _shared(self, passes: Iterator[_Pass]) -> Iterator[tuple[_Pass, Sequence[Tensor], dict[str, Tensor]]]:
        """Round by round, a batch for each process, which has run its own by then; all get the rows of all."""
        rounds = _ahead(self._own(passes), self._ahead)
        while True:
            with in_step(self.group):
                batches, rows = next(rounds, ((), None))
            if rows is None:
                return
            parts = self.group.parts(rows.view(torch.uint8))
            for rank, (one, part) in enumerate(zip(batches, parts, strict=False)):
                time = self.time if one.batch.keep is None else one.batch.keep.shape[1]
                columns = one.batch.columns(time, self.runner.pool)[1]
                wanted = len(columns["token"])
                same = f"process {rank} gave {part.shape[0]} rows for a batch of {wanted}; give all the same batches"
                check(part.shape[0] == wanted, same, DataError)
                yield one, torch.split(part.view(self._dtype), list(self.widths), 1), columns

    def _own(self, passes: Iterator[_Pass]) -> Iterator[tuple[list[_Pass], Tensor]]:
        """(the batches of a round, the rows of this process's own, all sites side by side)."""
        while batches := list(islice(passes, self.group.size)):
            if self.group.rank < len(batches):
                xs = self.runner.rows(batches[self.group.rank].batch)[0]
                yield batches, torch.cat([x.to(xs[0].device, self._dtype) for x in xs], 1)
            else:
                yield batches, torch.empty(0, sum(self.widths), dtype=self._dtype)

    def _from(self, epoch: int, place: Any) -> Iterator[tuple[Any, Batch]]:
        """(the state before it, batch) from a place in an epoch on."""
        items = self._items(epoch)
        number, first = (0, 0) if place is None else (place["batch"], place["document"])
        saves = _saves(items)
        inner = None if not saves else self._start if place is None else place["source"]
        if saves:
            items.load_state_dict(inner)
        left = iter(items) if saves else islice(items, number, None)
        for raw in left:
            batch = next(number_documents([raw], self.keep, first))
            yield {"epoch": epoch, "batch": number, "document": first, "source": inner}, batch
            number, first = number + 1, max(first, int(batch.document.max()) + 1)
            inner = items.state_dict() if saves else None


def _ahead(items: Iterator[T], number: int) -> Iterator[T]:
    """The same items, a number of which are made ahead, in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, items, None) for _ in range(number))
        try:
            while (item := coming.popleft().result()) is not None:
                coming.append(pool.submit(next, items, None))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def _saves(items: Any) -> bool:
    """Whether batches say where they are."""
    return hasattr(items, "state_dict") and hasattr(items, "load_state_dict")


def _contents(batch: Batch) -> list[Any]:
    """What a batch gives to the network: names, types, shapes, and sums that tell batches apart."""
    inputs = dict(batch.inputs) if isinstance(batch.inputs, Mapping) else {"": batch.inputs}
    parts: list[Any] = []
    for name, x in sorted((inputs | {"keep": batch.keep}).items()):
        if isinstance(x, Tensor):
            flat = x.detach().cpu().double().flatten()
            weights = torch.arange(1, flat.numel() + 1, dtype=torch.float64)
            parts.append([name, str(x.dtype), list(x.shape), float(flat.sum()), float((flat * weights).sum())])
    return parts
