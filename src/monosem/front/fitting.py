"""fit and discover: from rows of any kind to a dictionary, to anchors."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors, load_anchors
from monosem.base.errors import ArgumentError, DataError, check
from monosem.base.guard import closest, shown
from monosem.bench.tasks import Task, TaskSource
from monosem.bench.world import World, WorldSpec
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Pairing, Source, Transcoder
from monosem.data.source import FileSource, as_source, open_rows
from monosem.dictionary.atoms import Progress
from monosem.dictionary.climb import Settings
from monosem.dictionary.discover import Discovery
from monosem.dictionary.discover import discover as discover_directions
from monosem.front.given import as_start
from monosem.methods import Method
from monosem.methods import method as read_method
from monosem.train.config import FitConfig
from monosem.train.loop import Callback
from monosem.train.loop import fit as train
from monosem.train.progress import in_notebook
from monosem.train.result import Result


def fit(
    method: Method | str,
    rows: Any,
    n_q: int,
    config: FitConfig | Mapping[str, Any] | None = None,
    anchors: Any = None,
    *,
    target: Any = None,
    read: str | None = None,
    write: str | None = None,
    normalise: bool | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    allow_other_machine: bool = False,
    mesh: Any = None,
    start: Any = None,
    **settings: Any,
) -> Result:
    """Train a dictionary on rows, whatever they come in.

    `method`: "topk(k=32)", "jumprelu_transcoder", or a Method. `rows`: a tensor or an array [..., width], a file, a
    store of `harvest` (`read` and `write` name its sites), a pair (x_p, x_r) for a transcoder, several sources for a
    crosscoder, a World, a DataLoader, or any source. `n_q`: how many latents. `anchors`: Anchors, their file, what
    `discover` found, or a tensor with a direction a column. `settings` are fields of FitConfig: steps=500, lr=3e-4,
    seed=1. `normalise` trains on centred rows of mean norm sqrt(width) and folds that into the weights, so that the
    model takes raw rows; None does so for all rows but those of a source, which is taken as it is. With `out`, a
    folder, a killed run goes on where it stopped. `progress` None: a bar in a notebook. `mesh`: "latents=P" shares
    the latents among P processes of torchrun, which select the cells that one would, "targets=P" also the columns of
    x_r; or a DeviceMesh with that dimension. `start`: a trained model, a result of `fit`, or a file of any known
    format, with whose function the run begins.

    Raises: ArgumentError, DataError or RefusedError, one line with the remedy, for what cannot be trained.
    Example:
        >>> result = fit("topk(k=2)", torch.eye(8).repeat(8, 1), n_q=16, steps=3, batch_size=8)
        >>> result.encode(torch.eye(8).reshape(2, 4, 8)).to_dense().shape
        torch.Size([2, 4, 16])
    """
    plan = read_method(method) if isinstance(method, str) else method
    options = {"target": target, "read": read, "write": write}
    source = rows_for(plan.pairing, rows, **{name: value for name, value in options.items() if value is not None})
    check_source(plan, source)
    if isinstance(source, FileSource) and (source is not rows if normalise is None else normalise):
        source.normalised()
    return train(
        plan,
        source,
        n_q,
        _config(config, settings),
        _anchors(anchors, plan.pairing),
        out=out,
        callbacks=callbacks,
        progress=in_notebook() if progress is None else progress,
        allow_other_machine=allow_other_machine,
        mesh=mesh,
        start=None if start is None else as_start(start),
    )


def discover(
    rows: Any,
    target: Any = None,
    *,
    seed: int = 0,
    most: int = 200_000,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Discovery:
    """Directions of which the rows are sparse sums, found without labels: anchors for `fit`.

    The number of features is not asked for. `rows`, `target`: as for `fit`. `most`: rows that are used, spread evenly.
    `progress`, `settings`: as for `monosem.dictionary.discover`.
    Raises: DataError when nothing stands out in the rows.
    """
    source = rows_for(None, rows) if target is None else rows_for(None, rows, target=target)
    check(most >= 2, f"most={most}; give at least two rows")
    x_p, x_r = sample_of(source, most)
    return discover_directions(x_p, None if x_r is x_p else x_r, seed=seed, progress=progress, settings=settings)


def rows_for(pairing: Pairing | None, rows: Any, **options: Any) -> Source:
    """What was given, as a source of training rows."""
    if isinstance(rows, World | WorldSpec):
        spec = rows.spec if isinstance(rows, World) else rows
        kind = "sae" if pairing is None or isinstance(pairing, SAE) else "transcoder"
        kind = "crosscoder" if isinstance(pairing, Crosscoder) else kind
        return TaskSource(Task("world", 1, spec, n_q=spec.n, anchors=0, pairing=kind))
    if isinstance(rows, Source):
        return as_source(rows, pairing or SAE(), **options)
    return open_rows(rows, pairing=pairing, **options)


def sample_of(source: Source, most: int) -> tuple[Tensor, Tensor]:
    """Up to `most` raw rows of a source, spread evenly; the first of a stream."""
    if isinstance(source, FileSource):
        return source.sample(most)
    last = most - 1 if source.rows is None else source.rows - 1
    count = most if source.rows is None else min(most, source.rows)
    return source.take(torch.linspace(0, last, count, dtype=torch.float64).round().long())


def check_source(plan: Method, source: Source) -> None:
    """Raises: ArgumentError for a pairing without what it pairs; DataError for rows that are all the same."""
    m, what = len(source.p_widths), plan.spec or type(plan.pairing).__name__
    several = m >= 2 or not isinstance(plan.pairing, Crosscoder)
    check(several, f"{what} reads several sources, the data have {m}; give a list of them, or use an SAE")
    x_p, x_r = sample_of(source, 4096)
    for name, x in (("x_p", x_p), ("x_r", x_r)):
        varied = x.shape[0] == 1 or bool((x != x[0]).any())
        check(varied, f"all {x.shape[0]} sampled rows of {name} are the same; give rows that differ", DataError)
    another = isinstance(plan.pairing, Transcoder | CrossLayer)
    same = another and x_p.shape == x_r.shape and torch.equal(x_p, x_r)
    check(not same, f"{what} would write what it reads; give a pair (x_p, x_r), or use an SAE")


def _config(config: FitConfig | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> FitConfig:
    """A FitConfig from fields, by name."""
    known = [field.name for field in fields(FitConfig)]
    given = dict(settings) if isinstance(config, FitConfig | None) else {**config, **settings}
    for name in given:
        check(name in known, f"fit has no setting {name!r}{closest(name, known)}")
    return replace(config if isinstance(config, FitConfig) else FitConfig(), **given)


def _anchors(given: Any, pairing: Pairing) -> Anchors | None:
    if given is None or isinstance(given, Anchors):
        return given
    if isinstance(given, Discovery):
        return given.anchors
    if isinstance(given, str | Path):
        return load_anchors(given)
    if not isinstance(given, Tensor | np.ndarray):
        raise ArgumentError(
            f"anchors={shown(given)}; give Anchors, a file, what discover found, or a tensor [width, k]"
        )
    columns = torch.as_tensor(given)
    right = columns.ndim == 2 and columns.is_floating_point()
    check(right, f"anchors={shown(given)}; give directions as columns, real numbers [width, k]")
    shared = isinstance(pairing, SAE | Crosscoder)
    check(shared, "anchors of a transcoder are pairs of directions; give Anchors(p, r)")
    return Anchors(columns.float(), columns.float())
