"""harvest: run a network over batches and keep what passes some of its sites, in a store."""

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from monosem.base.errors import CheckpointError, DataError, ShapeError, check
from monosem.base.group import ALONE, Group, agreed
from monosem.data.batches import Batch, Pool, TokenFilter, number_documents
from monosem.data.store import Store, open_store
from monosem.data.writer import STORED, Writer
from monosem.networks.devices import input_device, is_split, moved, whole
from monosem.networks.sites import Site, capture, find_sites

SHARD_ROWS = 65536
"""Rows of a shard, unless said otherwise; a kill costs at most the work of one."""

Progress = Callable[[int, int], None]
"""Called after every batch with (rows harvested in this call, tokens read in this call)."""


@dataclass(frozen=True, eq=False)
class Runner:
    """Models, their sites, and how a batch becomes rows."""

    models: Mapping[str, nn.Module]
    sites: tuple[Site, ...]
    pool: Pool = "none"
    stop: bool = True

    @staticmethod
    def of(module: nn.Module | Mapping[str, nn.Module], sites: str, pool: Pool = "none", stop: bool = True) -> "Runner":
        """One model, or several by name; `sites` as text. Raises: ArgumentError for a site that is not there."""
        check(pool in ("none", "mean", "first", "last"), f"pool={pool!r}; known: none, mean, first, last")
        models = {"": module} if isinstance(module, nn.Module) else dict(module)
        check(bool(models), "no model is given; pass a module, or several by name")
        return Runner(models, find_sites(models, sites), pool, stop)

    def evaluating(self) -> "Runner":
        """Itself. Raises: ArgumentError when a model is in training mode."""
        training = [model for model in self.models.values() if model.training]
        check(not training, "the model is in training mode (dropout acts); call model.eval() first")
        return self

    @property
    def split(self) -> bool:
        """Whether a model lies in several processes, which then run every batch together."""
        return any(is_split(model) for model in self.models.values())

    def check_together(self, outputs: Mapping[Site, Tensor], group: Group) -> None:
        """Raises: ArgumentError for a split model without its group; DataError where processes see other numbers."""
        if not self.split:
            return
        alone = "the network is split over several processes; give the group of them, as train.open_mesh makes it"
        check(group.size > 1, alone)
        total = hashlib.sha256()
        for x in outputs.values():
            total.update(x.to("cpu", torch.float32).contiguous().numpy().data)
        agreed(group, total.hexdigest(), "a site inside what is split; choose the input or output of a block")

    def raw(self, batch: Batch) -> dict[Site, Tensor]:
        """What each site gives for a batch; heads of tokens side by side, the channels of pictures last."""
        outputs: dict[Site, Tensor] = {}
        for name, model in self.models.items():
            own = [site for site in self.sites if site.model == name]
            if own:
                with capture(model, own, self.stop) as seen:
                    outputs |= seen.run(model, moved(batch.inputs, input_device(model)))
        return {site: _as_rows(x, batch) for site, x in outputs.items()}

    def shape(self, outputs: Mapping[Site, Tensor], batch: Batch) -> tuple[int, tuple[int, ...]]:
        """(places per document, width of every site), checked: each site is [batch, width] or [batch, time, width].

        A convolution's [batch, channels, height, width] has height x width places, row by row of the picture; a hook
        point of attention heads over tokens, [batch, time, heads, d_head], is one of width heads x d_head.
        """
        rows, times = batch.document.numel(), {}
        for site, x in outputs.items():
            if x.ndim not in (2, 3) or x.shape[0] != rows or not x.is_floating_point():
                raise ShapeError(
                    f"{site} gives {x.dtype} of shape {tuple(x.shape)} for {rows} documents; a site gives numbers "
                    "[batch, width], [batch, time, width], [batch, time, heads, d_head] or [batch, channels, height, "
                    "width]: choose another module"
                )
            times[str(site)] = x.shape[1] if x.ndim == 3 else 1
        check(
            len(set(times.values())) == 1,
            f"sites differ in places per document ({times}); harvest them apart",
            ShapeError,
        )
        return next(iter(times.values())), tuple(outputs[site].shape[-1] for site in self.sites)

    def rows(
        self, batch: Batch, outputs: Mapping[Site, Tensor] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """(the kept rows of every site [rows, width], their columns), of what `raw` found, or finds."""
        outputs = self.raw(batch) if outputs is None else outputs
        time, _ = self.shape(outputs, batch)
        keep, columns = batch.columns(time, self.pool)
        return [self._pooled(outputs[site], keep) for site in self.sites], columns

    def _pooled(self, x: Tensor, keep: Tensor) -> Tensor:
        x = x[:, None] if x.ndim == 2 else x
        keep = keep.to(x.device)
        if self.pool == "none":
            every = bool(keep.all())
            return x.reshape(-1, x.shape[-1]) if every else x.reshape(-1, x.shape[-1])[keep.reshape(-1).nonzero()[:, 0]]
        some = keep.any(1)
        if self.pool == "mean":
            weight = (keep / keep.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)
            return torch.einsum("bt,btd->bd", weight, x)[some]
        place = keep.int().argmax(1) if self.pool == "first" else keep.shape[1] - 1 - keep.flip(1).int().argmax(1)
        return x[torch.arange(x.shape[0], device=x.device), place][some]


def harvest(
    module: nn.Module | Mapping[str, nn.Module],
    sites: str,
    batches: Iterable[Any],
    out: str | Path,
    *,
    keep: TokenFilter | None = None,
    pool: Pool = "none",
    dtype: str = "float32",
    rows: int | None = None,
    shard_rows: int = SHARD_ROWS,
    labels: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
    stop: bool = True,
    progress: Progress | None = None,
    allow_other_machine: bool = False,
    group: Group = ALONE,
) -> Store:
    """Run a module over batches and store the rows of its sites.

    `module`: any torch module, or several by name, which read the same batches. `sites`: "model.layers.5.mlp:in,out".
    `batches`: token numbers, mappings as a tokenizer gives them, rows of numbers, or `Batch`es; the same ones in
    the same order when called again. `keep` filters tokens of raw batches; `pool` makes one row of every document.
    `dtype`: of the stored numbers; int8 has a scale per row, and half of bfloat16's bytes.
    `rows`: stop after so many. `labels` names the classes that batches carry as numbers. `stop` ends each
    forward pass at the last site. `about` is written to the manifest as it is.
    Called again after a kill, it skips what is stored (comparing tokens and places) and ends with the same bytes.
    `group`: the processes that harvest, each with the network and the same batches. Each runs the batches of every P-th
    shard (all of them run all where the network is split over them); the store has the bytes of one process's.

    Raises: ArgumentError for a site that is not there; DataError for numbers that are not finite in `dtype`;
        CheckpointError when `out` holds another harvest, or the batches are not those it was begun with.
    Example:
        >>> import tempfile
        >>> layer = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval()
        >>> store = harvest(layer, "0:out; 1:out", [torch.randn(3, 4), torch.randn(2, 4)], tempfile.mkdtemp())
        >>> store.rows, store.sites, store.widths
        (5, ('0:out', '1:out'), (8, 8))
    """
    check(dtype in STORED, f"dtype={dtype!r}; known: {', '.join(STORED)}")
    check(rows is None or rows >= 1, f"rows={rows}; it must be at least 1, or None")
    runner = Runner.of(module, sites, pool, stop).evaluating()
    stream = number_documents(batches, keep)
    first = next(stream, None)
    if first is None:
        raise DataError("no batches to harvest; give at least one")
    time, widths = runner.shape(probe := runner.raw(first), first)
    runner.check_together(probe, group)
    header = {
        "sites": [
            {"name": str(s), "model": s.model, "module": s.module, "side": s.side, "width": w}
            for s, w in zip(runner.sites, widths, strict=True)
        ],
        "models": {name: fingerprint(model) for name, model in runner.models.items()},
        "dtype": dtype,
        "pool": pool,
        "rows_wanted": rows,
        "shard_rows": shard_rows,
        "labels": None if labels is None else list(labels),
        "about": dict(about or {}),
    }
    writer = Writer(Path(out), header, vocabulary, allow_other_machine, group, runner.split)
    try:
        work = chain([(first, probe)], zip(stream, repeat(None), strict=False))
        total = _fill(runner, writer, work, time, rows or sys.maxsize, progress)
    except BaseException:
        writer.stop()
        raise
    writer.close(total)
    return open_store(out)


def _fill(
    runner: Runner,
    writer: Writer,
    batches: Iterable[tuple[Batch, Mapping[Site, Tensor] | None]],
    time: int,
    wanted: int,
    progress: Progress | None,
) -> int:
    """Skip the batches whose rows are all stored, or another process's, then harvest; of one between, some rows.

    Returns how many rows the store has.
    """
    safe, done, new, tokens = writer.rows, 0, 0, 0
    for batch, outputs in batches:
        if done >= wanted:
            break
        check((batch.label is not None) == (writer.manifest["labels"] is not None), _LABELS, DataError)
        count = batch.count(time, runner.pool)
        stored, missing = writer.parts(done, min(count, wanted - done))
        if stored:
            times = time if batch.keep is None else batch.keep.shape[1]
            _same_rows(batch.columns(times, runner.pool)[1], writer, done, stored)
        if missing:
            _append(runner, writer, batch, outputs, count, missing)
            new, tokens = new + sum(part.stop - part.start for _, part in missing), tokens + batch.tokens
            if progress is not None:
                progress(new, tokens)
        done += count
    if min(done, wanted) < safe:
        raise CheckpointError(f"{writer.folder} holds {safe} rows, the batches give {done}; {_OTHER}")
    check(done > 0, "the batches hold no row that is kept; loosen the token filter", DataError)
    return min(done, wanted)


def _append(
    runner: Runner,
    writer: Writer,
    batch: Batch,
    outputs: Mapping[Site, Tensor] | None,
    count: int,
    parts: Sequence[tuple[int, slice]],
) -> None:
    """Write some of a batch's rows into their shards, in the files' type."""
    dtype = writer.manifest["dtype"]
    xs, columns = runner.rows(batch, outputs)
    if len(columns["token"]) != count:
        raise ShapeError("a site has other places per document than at first; pad the batches")
    extra = {name: values.numpy() for name, values in columns.items()}
    kept = []
    for number, (x, site) in enumerate(zip(xs, runner.sites, strict=True)):
        if dtype == "int8":
            x, scales = _quantised(x)
            extra[f"scale{number}"] = _converted(scales, torch.float32, site)
        kept.append(_converted(x, getattr(torch, dtype), site))
    for shard, part in parts:
        writer.append(shard, [x[part] for x in kept], {name: values[part] for name, values in extra.items()})


_OTHER = "give the batches that the harvest was begun with, or another folder"
_LABELS = "labels name classes and batches carry them as numbers: give both or neither"


def _same_rows(columns: Mapping[str, Tensor], writer: Writer, first: int, parts: Sequence[tuple[int, slice]]) -> None:
    """The rows of a batch that are skipped are those that shards have; `first` is the number of the batch's first."""
    for (number, part), name in product(parts, ("token", "document", "position")):
        start = first + part.start
        stored = writer.column(number, name)[start - number * writer.each : first + part.stop - number * writer.each]
        given = columns[name][part][: len(stored)].numpy()
        differ = np.flatnonzero(stored != given)
        if differ.size:
            at = int(differ[0])
            row = f"row {start + at} of {writer.folder} has {name} {int(stored[at])}"
            raise CheckpointError(f"{row}, the batches give {int(given[at])}; {_OTHER}")


def _as_rows(x: Tensor, batch: Batch) -> Tensor:
    """Heads of tokens [batch, time, heads, d_head] as [batch, time, heads d_head]; pictures [batch, channels, height,
    width] as [batch, height width, channels]; others as they are."""
    if x.ndim != 4:
        return x
    heads = batch.token is not None and x.shape[:2] == batch.token.shape
    return x.flatten(2) if heads else x.flatten(2).transpose(1, 2)


def _quantised(x: Float[Tensor, "rows width"]) -> tuple[Int8[Tensor, "rows width"], Float[Tensor, " rows"]]:
    """Rows in 8 bits and their scales. Equation: scale = max |x| / 127, q = round(x / scale), x ~ q scale."""
    scale = x.float().abs().amax(1) / 127
    q = (x.float() / scale.clamp(min=1e-30)[:, None]).round()
    return q.to(torch.int8), scale


def _converted(x: Tensor, dtype: torch.dtype, site: Site) -> np.ndarray:
    """Rows in the files' type; a number that is not finite there is refused."""
    narrow = x.to(dtype).cpu()
    if not dtype.is_floating_point:
        return narrow.numpy()
    if not bool(torch.isfinite(narrow.sum(dtype=torch.float32))) and not bool(torch.isfinite(narrow).all()):
        worst = float(x.float().nan_to_num(nan=float("inf")).abs().max())
        what = "NaN or infinity" if worst == float("inf") else f"{worst:g}, too large for {dtype}"
        raise DataError(f"{site} gives {what}; " + ("check the model" if worst == float("inf") else "use float32"))
    return (narrow.view(torch.uint16) if dtype == torch.bfloat16 else narrow).numpy()


SAMPLED = 1024
"""Numbers read from every parameter, evenly spread."""


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Class, number of parameters, and a sha256 over every parameter's and buffer's name, type, shape and a sample.

    Two models that differ only in numbers between the sampled ones have the same fingerprint. Of what is off-loaded
    (on no device) the name, type and shape count alone.
    """
    total = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        flat = whole(tensor.detach()).reshape(-1)
        step = max(1, flat.numel() // SAMPLED)
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.device.type != "meta":
            total.update(flat[::step].to("cpu", torch.float64).numpy().tobytes())
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"class": type(model).__name__, "parameters": count, "sha256": total.hexdigest()}
