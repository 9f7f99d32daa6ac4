"""A training source of stored activations, for every pairing: which sites are read and which are written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monosem.base.errors import check
from monosem.base.spec import digest
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Pairing
from monosem.data.source import FileSource
from monosem.data.store import Sharded, Store, open_store
from monosem.data.table import Table


class SideBySide:
    """Several arrays of the same rows as one, their columns one after the other."""

    def __init__(self, parts: Sequence[Sharded]) -> None:
        self.parts = tuple(parts)
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Rows by a number, a slice or an array of numbers, as float32."""
        return np.concatenate([part[key].astype(np.float32, copy=False) for part in self.parts], axis=-1)


class StoreSource(FileSource):
    """Rows of a store: x_p from the sites of `read`, x_r from those of `write` (None: x_r = x_p).

    Several sites lie side by side, in the order given; `read` and `write` are texts as "model.layers.*.mlp:in", or
    several of them. With `normalise`, training sees each source centred and with mean norm sqrt(width), and the
    model that it ends with takes raw activations (core/units.py). Any row order is read straight from the mapped
    files, so an epoch is one keyed permutation of all rows (train/config.py, Order). The digest is that of the
    manifest's hashes; `Store.verify` compares them with the files.
    """

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
        held = [[shard[file] for file in files] for shard in shards]
        super().__init__(x_p, x_r, p_widths, r_widths, digest=digest([self.read, self.write, held]))
        if normalise:
            self.normalised()


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
    reads = store.match(read) if read else tuple(site for site in store.sites if site.endswith(":in"))
    writes = store.match(write) if write else tuple(site for site in store.sites if site.endswith(":out"))
    settled = isinstance(pairing, CrossLayer) or ((len(reads) == 1 or read) and (len(writes) == 1 or write))
    check(bool(reads and writes and settled), f"a transcoder reads some sites and writes others; say which of: {known}")
    return reads, writes


def _chosen(store: Store, sites: str | Sequence[str]) -> tuple[str, ...]:
    texts = [sites] if isinstance(sites, str) else sites
    return tuple(dict.fromkeys(name for text in texts for name in store.match(text)))


def _side(store: Store, sites: tuple[str, ...]) -> tuple[Table, tuple[int, ...]]:
    tables = [store.table(site) for site in sites]
    widths = tuple(table.width for table in tables)
    if len(tables) == 1:
        return tables[0], widths
    return Table(SideBySide([table.values for table in tables]), store.folder), widths
