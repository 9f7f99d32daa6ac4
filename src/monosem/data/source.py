"""Training sources of rows on disk: tables, checked once from end to end, and stores, for every pairing."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, check
from monosem.base.guard import guarded, shown
from monosem.base.seeds import torch_generator
from monosem.base.spec import digest
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Pairing, Rows, Source
from monosem.core.units import Units
from monosem.data.arrays import sides_of, table_of
from monosem.data.store import Sharded, Store, is_store, open_store
from monosem.data.table import Labels, Table, read_labels

NORM_LIMIT = 5.0
"""Rows whose norm is above this many times the median are left out, unless said otherwise."""

HELD_OUT = 8192
"""Rows that are held back from training and scored, unless said otherwise; a tenth of the rows at most."""


class FileSource:
    """Rows (x_p, x_r) of one or two tables, in memory or in files; what a format keeps on disk is read as it is used.

    `x_r` None means x_r = x_p. Several sources lie side by side; `p_widths` and `r_widths` are their widths.
    `labels` holds one class per row where labels were asked for.
    `take` gives the rows that training sees, in `units` if these are set (`normalised` sets them); `sample` and the
    tables give raw ones. `digest` is that of the data where it is known; otherwise all rows are read for it.
    Raises: DataError when a number is NaN or infinite (naming its row and column) or the tables' rows differ in number.
    """

    def __init__(
        self,
        x_p: Table,
        x_r: Table | None = None,
        p_widths: tuple[int, ...] | None = None,
        r_widths: tuple[int, ...] | None = None,
        digest: str | None = None,
    ) -> None:
        if x_r is not None and x_r.rows != x_p.rows:
            raise DataError(
                f"{x_p.path} has {x_p.rows} rows, {x_r.path} has {x_r.rows}; they must be rows of the same inputs"
            )
        target = x_p if x_r is None else x_r
        self.x_p, self.x_r, self.rows, self.total = x_p, x_r, x_p.rows, x_p.rows
        self.p_widths = p_widths or (x_p.width,)
        self.r_widths = r_widths or (self.p_widths if x_r is None else (target.width,))
        for name, widths, table in (("widths", self.p_widths, x_p), ("target widths", self.r_widths, target)):
            check(min(widths) >= 1, f"{name} {widths} describe {table.path}; each is at least 1")
            if sum(widths) != table.width:
                raise ArgumentError(f"{name} {widths} sum to {sum(widths)}, {table.path} has {table.width} columns")
        self.units: Units | None = None
        self.labels: Labels | None = None
        self.held_out: Int[Tensor, " rows"] = torch.zeros(0, dtype=torch.int64)
        self._kept: Int[Tensor, " rows"] | None = None
        self._digest = digest or "+".join(_check_through(table) for table in (x_p, x_r) if table is not None)

    @property
    def digest(self) -> str:
        """Of the data, the rows that are left, and the units in which they are given."""
        rows = self._digest if self._kept is None else f"{self._digest}/{digest(_sums(self._kept))}"
        return rows if self.units is None else f"{rows}@{self.units.digest}"

    def normalised(self, centre: bool = True, scale: bool = True, rows: int = 65536) -> "FileSource":
        """Train in units measured on up to `rows` rows: centred, mean norm sqrt(n) for each source; returns itself."""
        index = self._spread(rows)
        p = self._each(self.x_p, self.p_widths, index)
        r = None if self.x_r is None else self._each(self.x_r, self.r_widths, index)
        self.units = Units.of_sources(p, r, centre, scale)
        return self

    def _each(self, table: Table, widths: Sequence[int], index: Tensor) -> Iterator[Tensor]:
        """Rows of one source after the other."""
        for last, width in zip(accumulate(widths), widths, strict=True):
            yield (table if width == table.width else table.columns(last - width, last)).take(self._place(index))

    def _place(self, index: Tensor) -> Tensor:
        """Where rows by number lie in the tables."""
        return index if self._kept is None else self._kept[index]

    def kept_rows(self) -> Bool[Tensor, " total"] | None:
        """Which rows of the tables are left; None for all."""
        if self._kept is None:
            return None
        mask = torch.zeros(self.total, dtype=torch.bool)
        mask[self._kept] = True
        return mask

    def _leave(self, mask: Bool[Tensor, " total"]) -> None:
        """Keep only rows of a mask over the tables."""
        before = self.kept_rows()
        self._kept = (mask if before is None else mask & before).nonzero()[:, 0]
        check(self._kept.numel() > 0, "no row is left; loosen what leaves rows out", DataError)
        self.rows = self._kept.numel()

    def ordinary(self, limit: float = NORM_LIMIT) -> int:
        """Leave out rows that are far longer than most; returns how many.

        Equation: a row goes where, at any source, ||x|| > limit times the median of ||x|| over all rows. All rows are
            read once. In residual streams a few tokens (the first, delimiters) have norms tens of times the usual and
            would decide the loss and every ratio of variances.
        """
        check(limit > 1, f"limit={limit}; it is a multiple of the median norm, more than 1")
        ordinary = torch.ones(self.total, dtype=torch.bool)
        for table, widths in ((self.x_p, self.p_widths), *([] if self.x_r is None else [(self.x_r, self.r_widths)])):
            parts = (torch.split(rows, list(widths), 1) for _, rows in table.chunks())
            norms = torch.cat([torch.stack([x.norm(dim=1) for x in part]) for part in parts], 1)
            median = norms.median(1, keepdim=True).values
            ordinary &= (norms <= torch.where(median > 0, limit * median, torch.inf)).all(0)  # else most rows are 0
        before = self.rows
        if not bool(ordinary.all()):
            self._leave(ordinary)
        return before - self.rows

    def set_aside(self, rows: int = HELD_OUT, share: float = 0.1, seed: int = 0) -> int:
        """Hold rows back from training, for `held_out`: `rows` of them, at most a `share`; returns how many.

        Of a store whole documents in a keyed order, else single rows. Call it after `ordinary`.
        """
        wanted = min(rows, int(share * self.rows))
        if wanted < 2:
            return 0
        place = self._place(torch.arange(self.rows))
        group = self._groups(place)
        order = torch.randperm(int(group.max()) + 1, generator=torch_generator(seed, "held out"))
        counts = torch.bincount(group, minlength=order.numel())[order].cumsum(0)
        chosen = order[: max(1, int((counts <= wanted).sum()))]
        aside = torch.isin(group, chosen)
        if bool(aside.all()):
            return 0
        self.held_out = place[aside]
        mask = torch.ones(self.total, dtype=torch.bool)
        mask[self.held_out] = False
        self._leave(mask)
        return self.held_out.numel()

    @property
    def fresh(self) -> "FileSource | None":
        """The rows that are held back, as training would see them; None where none are."""
        if not self.held_out.numel():
            return None
        others = copy(self)
        others._kept, others.rows, others.held_out = self.held_out, self.held_out.numel(), self.held_out[:0]
        return others

    def _groups(self, place: Tensor) -> Tensor:
        """The number of each row's group, which is held back whole; here every row is one."""
        return torch.arange(place.numel())

    def batches(self, index: Tensor, size: int = 1024) -> Iterator[tuple[Tensor, Tensor]]:
        """Raw rows of the tables by their place, some at a time."""
        for part in torch.split(index, size):
            x_p = self.x_p.take(part)
            yield x_p, x_p if self.x_r is None else self.x_r.take(part)

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Rows by number, as float32, in the units of training."""
        rows = self._raw(index)
        return rows if self.units is None else self.units.both(*rows)

    def _raw(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        place = self._place(index)
        x_p = self.x_p.take(place)
        return x_p, x_p if self.x_r is None else self.x_r.take(place)

    def sample(self, rows: int) -> tuple[Float[Tensor, "rows n_p"], Float[Tensor, "rows n_r"]]:
        """Up to `rows` raw rows, spread evenly over the table: what a trained model takes."""
        return self._raw(self._spread(rows))

    def _spread(self, rows: int) -> Tensor:
        """Numbers of up to `rows` rows, spread evenly."""
        return torch.linspace(0, self.rows - 1, min(rows, self.rows), dtype=torch.float64).round().long()


def open_rows(
    data: Any,
    target: Any = None,
    *,
    pairing: Pairing | None = None,
    read: str | None = None,
    write: str | None = None,
    key: str | None = None,
    target_key: str | None = None,
    widths: tuple[int, ...] | None = None,
    target_widths: tuple[int, ...] | None = None,
    labels: str | Path | None = None,
    labels_key: str | None = None,
) -> FileSource:
    """Raw rows from anywhere: the one door to training, anchors and the page of latents.

    `data`: a tensor or an array [..., width], whose leading axes are rows; a file; a store of `harvest`; a pair
    (x_p, x_r); several sources, as a list or by name; a DataLoader, read once. `target` holds x_r where `data` is no
    pair. Of a store, `read` and `write` name the sites, and `pairing` fills in what it leaves no choice of. `widths`:
    of sources that lie side by side in one table; keys name tensors or columns in a file. `labels`: a file with
    one class per row, or a store that has labels; they are kept in `source.labels`.
    Raises: ArgumentError for arguments that the other kind takes, or sites that leave a choice; DataError, naming what
        was given, for what cannot be read, is no number, or is not one per row.

    Example:
        >>> source = open_rows(torch.ones(2, 5, 8))
        >>> source.rows, source.p_widths
        (10, (8,))
        >>> open_rows((torch.ones(10, 8), torch.ones(10, 6))).r_widths
        (6,)
    """
    source: FileSource
    if isinstance(data, Store) or (isinstance(data, str | Path) and is_store(data)):
        tables = {"target": target, "key": key, "target_key": target_key, "widths": widths}
        _leave_out("a store knows its sites", tables | {"target_widths": target_widths})
        store = data if isinstance(data, Store) else open_store(data)
        sites = (read, write) if pairing is None else sites_for(pairing, store, read, write)
        source = StoreSource(store, *sites, normalise=False)
    else:
        _leave_out(f"{shown(data)} is no store", {"read": read, "write": write})
        sides = sides_of(data, target, pairing)
        x_p, p_widths = table_of(sides.data, "x_p", key)
        x_r, r_widths = (None, None) if sides.target is None else table_of(sides.target, "x_r", target_key)
        source = FileSource(x_p, x_r, widths or p_widths, target_widths or r_widths)
    if labels is not None:
        source.labels = _open_labels(labels, source.rows, labels_key)
    return source


def _sums(rows: Tensor) -> list[float]:
    """Numbers that tell sets of rows apart."""
    return [rows.numel(), int(rows.sum()), float((rows.double() * torch.arange(1.0, rows.numel() + 1)).sum())]


def as_source(data: Any, pairing: Pairing, **options: Any) -> Source:
    """A source as it is, and what `open_rows` makes of anything else."""
    if isinstance(data, Source):
        _leave_out(f"{type(data).__name__} is a source and complete", options)
        return data
    return open_rows(data, pairing=pairing, **options)


def _leave_out(why: str, arguments: Mapping[str, object]) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    check(not given, f"{why}; leave out {', '.join(given)}")


def _open_labels(path: str | Path, rows: int, key: str | None) -> Labels:
    """Labels of a file, or those of a store."""
    if not is_store(path):
        return read_labels(path, rows, key)
    labels = open_store(path).labels
    if labels is None:
        raise DataError(f"{path} holds no labels; harvest it again with labels, or give them as a file")
    have = labels.codes.numel()
    check(have == rows, f"{path} labels {have:,} rows, the data have {rows:,}; give one label per row", DataError)
    return labels


def _check_through(table: Table) -> str:
    """sha256 of a table as float32; refuses NaN and infinity."""
    total = hashlib.sha256(f"{table.rows},{table.width}".encode())
    for start, rows in table.chunks():
        finite = torch.isfinite(rows)
        if not bool(finite.all()):
            at = (~finite).nonzero()
            row, column = start + int(at[0, 0]), int(at[0, 1])
            value = float(table.values[row][column])
            large = abs(value) < float("inf")
            what = f"{value:g}, too large for float32" if large else "NaN" if value != value else "infinity"
            check(
                False,
                f"{table.path}: row {row}, column {column} (counted from 0) holds {what}; "
                + ("rescale the data" if large else "remove or replace such rows"),
                DataError,
            )
        total.update(rows.numpy().tobytes())
    return total.hexdigest()


class _SideBySide:
    """Several arrays of the same rows as one, their columns one after the other."""

    def __init__(self, parts: Sequence[Sharded]) -> None:
        self.parts = tuple(parts)
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
        self.dtype = np.dtype(np.float32)

    def expect_run(self, start: int, stop: int) -> None:
        """Start reading rows that follow each other."""
        for part in self.parts:
            part.expect_run(start, stop)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Rows by a number, a slice or an array of numbers, as float32."""
        for part in self.parts if isinstance(key, np.ndarray) else ():
            part.expect(key)
        return np.concatenate([part[key].astype(np.float32, copy=False) for part in self.parts], axis=-1)


class StoreSource(FileSource):
    """Rows of a store: x_p from the sites of `read`, x_r from those of `write` (None: x_r = x_p).

    Several sites lie side by side, in the order given; `read` and `write` are texts as "model.layers.*.mlp:in", or
    several of them. With `normalise`, training sees each source centred and with mean norm sqrt(width), and the
    model that it ends with takes raw activations (core/units.py). Any row order is read straight from the mapped
    files, so an epoch is one keyed permutation of all rows (train/order.py). The digest is that of the
    manifest's hashes; `Store.verify` compares them with the files.
    """

    @guarded
    def __init__(
        self,
        store: Store | str | Path,
        read: str | Sequence[str] | None = None,
        write: str | Sequence[str] | None = None,
        *,
        normalise: bool = True,
    ) -> None:
        self.store = store if isinstance(store, Store) else open_store(store)
        check(
            read is not None or len(self.store.sites) == 1,
            f"the store holds {len(self.store.sites)} sites ({', '.join(self.store.sites[:6])}); say which to read",
        )
        self.read = _chosen(self.store, self.store.sites if read is None else read)
        self.write = None if write is None else _chosen(self.store, write)
        x_p, p_widths = _side(self.store, self.read)
        x_r, r_widths = (None, None) if self.write is None else _side(self.store, self.write)
        shards = [shard["sha256"] for shard in self.store.manifest["shards"]]
        files = [f"x{self.store.sites.index(site)}.npy" for site in (*self.read, *(self.write or ()))]
        hashes = [[shard[file] for file in files] for shard in shards]
        super().__init__(x_p, x_r, p_widths, r_widths, digest=digest([self.read, self.write, hashes]))
        if normalise:
            self.normalised()

    def where(self, index: Int[Tensor, " batch"]) -> Rows:
        """The token, document and place of rows by number."""
        columns, place = (self.store.tokens, self.store.documents, self.store.positions), self._place(index).numpy()
        return Rows(index, *(torch.from_numpy(column[place].astype(np.int64)) for column in columns))

    def _groups(self, place: Tensor) -> Tensor:
        """Documents."""
        documents = torch.from_numpy(self.store.documents[place.numpy()].astype(np.int64))
        return documents.unique(return_inverse=True)[1]  # type: ignore[no-any-return,no-untyped-call]


def sites_for(
    pairing: Pairing, store: Store, read: str | None = None, write: str | None = None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """(sites to read, sites to write) of a pairing, filled in where the store leaves no choice.

    A transcoder and a cross-layer transcoder read inputs and write outputs; a crosscoder takes all sites that are read;
    an SAE takes one. Raises: ArgumentError where the store leaves a choice.
    """
    known = ", ".join(store.sites)
    if isinstance(pairing, SAE | Crosscoder):
        check(write is None, f"this method writes what it reads; leave out the sites to write ({write}) or transcode")
        reads = store.match(read) if read else store.sites
        check(isinstance(pairing, Crosscoder) or len(reads) == 1, f"an SAE reads one site; say which of: {known}")
        return reads, None
    sides = [(_sites(store, text, side), text) for text, side in ((read, ":in"), (write, ":out"))]
    several = isinstance(pairing, CrossLayer)
    settled = all(sites and (several or text or len(sites) == 1) for sites, text in sides)
    check(settled, f"a transcoder reads some sites and writes others; say which of: {known}")
    return sides[0][0], sides[1][0]


def _sites(store: Store, text: str | None, side: str) -> tuple[str, ...]:
    """The sites that a text names; without one, all of a side."""
    return store.match(text) if text else tuple(site for site in store.sites if site.endswith(side))


def _chosen(store: Store, sites: str | Sequence[str]) -> tuple[str, ...]:
    texts = [sites] if isinstance(sites, str) else sites
    check(len(texts) > 0, f"no site is named; say which of: {', '.join(store.sites[:6])}")
    return tuple(dict.fromkeys(name for text in texts for name in store.match(text)))


def _side(store: Store, sites: tuple[str, ...]) -> tuple[Table, tuple[int, ...]]:
    tables = [store.table(site) for site in sites]
    widths = tuple(table.width for table in tables)
    if len(tables) == 1:
        return tables[0], widths
    return Table(_SideBySide([table.values for table in tables]), store.folder), widths
