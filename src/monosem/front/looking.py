"""evaluate, score and inspect: what a dictionary does to rows, what it has of the truth, what its latents fire on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.base.card import card
from monosem.base.errors import DataError, ShapeError, check
from monosem.base.files import write_atomic
from monosem.base.guard import shown
from monosem.bench.folds import Coded
from monosem.bench.folds import evaluate as evaluate_codes
from monosem.bench.metrics import flatten
from monosem.bench.metrics import score as score_dictionary
from monosem.bench.task_scores import evaluate_model
from monosem.bench.tasks import TASKS, Task, TaskSource
from monosem.bench.world import World, WorldSpec
from monosem.core.model import SDL
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Pairing, Source, Transcoder
from monosem.data.table import Labels
from monosem.front.fitting import rows_for, sample_of
from monosem.front.given import Network, as_model, network_of, tokens_of
from monosem.inspect.options import Options
from monosem.inspect.page import inspect_page
from monosem.inspect.rows import Rows, first_rows, rows_from
from monosem.networks.network import network_scores
from monosem.train.result import Result


class Scores(dict[str, float]):
    """Numbers by name, with a card in a notebook."""

    def __repr__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.items())

    def _repr_html_(self) -> str:
        return card("scores", {name: f"{value:.4g}" for name, value in self.items()})


def _pairing_of(model: SDL) -> Pairing:
    """What kind of rows a model reads and writes."""
    several = len(model.layout.p_widths) > 1
    if model.layout.shared:
        return Crosscoder() if several else SAE()
    return CrossLayer() if several else Transcoder()


def evaluate(
    model: SDL | Result | str | Path,
    rows: Any,
    target: Any = None,
    *,
    network: Network | None = None,
    at: str | None = None,
    to: str | None = None,
    most: int = 65536,
) -> Scores:
    """How well a dictionary reconstructs rows that it was not trained on: FVU, L0, dead latents.

    `rows`, `target`: as for `fit`; of a World, fresh rows, and the recovery of its features beside. With `network` and
    its site `at` (a transcoder: `at` and `to`), `rows` are texts or batches of tokens, as for `harvest`: what the
    network loses with the reconstruction in place. `most`: rows that are used, spread evenly.

    Example:
        >>> from monosem.front.fitting import fit
        >>> sae = fit("topk(k=1)", torch.eye(8).repeat(8, 1), n_q=16, steps=50, batch_size=8, lr=0.05)
        >>> sorted(evaluate(sae, torch.eye(8)))
        ['dead', 'fvu', 'l0']
    """
    sdl = as_model(model)
    check(most >= 1, f"most={most}; give at least one row")
    if network is not None:
        check(at is not None, "at names the site that the model reads, as 'model.layers.3:out'; give it with network")
        module, tokenizer = network_of(network)
        return Scores(_numbers(network_scores(module, sdl, str(at), tokens_of(rows, tokenizer)[0], to).plain()))
    if isinstance(rows, World | WorldSpec):
        source = rows_for(_pairing_of(sdl), rows)
        assert isinstance(source, TaskSource)
        _agree(sdl, source)
        return Scores(flatten(evaluate_model(sdl, source, torch.arange(source.task.world.n), min(most, 8192)))[0])
    source = rows_for(_pairing_of(sdl), rows) if target is None else rows_for(_pairing_of(sdl), rows, target=target)
    _agree(sdl, source)
    return Scores(evaluate_codes(_coded(sdl, *sample_of(source, most))))


def _numbers(plain: Mapping[str, Any]) -> dict[str, float]:
    scores = {name: float(plain[name]) for name in ("fvu", "l0", "dead", "cosine")}
    for effect in plain["effects"]:
        where = "" if len(plain["effects"]) == 1 else f" at {', '.join(effect['sites'])}"
        scores |= {f"loss, {name}{where}": value for name, value in effect["ce"].items()}
        recovered = {name: value for name, value in effect["recovered"].items() if value is not None}
        scores |= {f"recovered of {name} ablation{where}": value for name, value in recovered.items()}
    return scores


def _agree(sdl: SDL, source: Source) -> None:
    have, wanted = (sum(source.p_widths), sum(source.r_widths)), (sdl.layout.n_p, sdl.layout.n_r)
    check(have == wanted, f"the rows have (n_p, n_r) = {have}, the model reads {wanted}; give its own rows", ShapeError)


def _coded(sdl: SDL, x_p: Tensor, x_r: Tensor) -> Iterator[Coded]:
    with torch.no_grad():
        for p, r in zip(torch.split(x_p, 1024), torch.split(x_r, 1024), strict=True):
            out = sdl(p)
            yield Coded(r, out.x_r_hat, out.code)


def score(model: SDL | Result | str | Path, truth: Any) -> Scores:
    """Recovery of true directions by a dictionary: for each direction, the best cosine of a latent.

    `truth`: a World, a task of the bench or its name, a tensor [n_r, features] with a true direction a column, or a
    pair (W_p, W_r) of such. Names of scores: docs/bench.md; "decoder_cosine.M_GT@0.95" is the share of features that a
    decoder column meets at |cos| > .95.

    Example:
        >>> from monosem.methods import method
        >>> sdl, _ = method("topk(k=1)").build(8, (4,), (4,))
        >>> scores = score(sdl, sdl.W_D.detach())
        >>> scores["decoder_cosine.M_GT@0.95"]
        1.0
    """
    sdl = as_model(model)
    if isinstance(truth, str):
        truth = TASKS[truth]
    if isinstance(truth, Task):
        truth = TaskSource(truth)
    elif isinstance(truth, World | WorldSpec):
        truth = rows_for(_pairing_of(sdl), truth)
    W_p, W_r = (truth.W_p, truth.W_r) if isinstance(truth, TaskSource) else _directions(truth)
    widths = (W_p.shape[0], W_r.shape[0])
    fits = widths == (sdl.layout.n_p, sdl.layout.n_r)
    check(
        fits, f"the truth has widths {widths}, the model {(sdl.layout.n_p, sdl.layout.n_r)}; give its own", ShapeError
    )
    layout = sdl.layout
    W_E, W_D = sdl.W_E.detach(), sdl.W_D.detach()
    return Scores(flatten(score_dictionary(W_E, W_D, W_p, W_r, p_widths=layout.p_widths, r_widths=layout.r_widths))[0])


def _directions(truth: Any) -> tuple[Tensor, Tensor]:
    sides = truth if isinstance(truth, tuple) and len(truth) == 2 else (truth, truth)
    for side in sides:
        real = isinstance(side, Tensor) and side.ndim == 2 and side.is_floating_point() and side.numel() > 0
        check(real, f"truth={shown(side)}; give a World, a task, or directions as columns [width, features]", DataError)
    W_p, W_r = (side.detach().float() for side in sides)
    check(W_p.shape[1] == W_r.shape[1], f"W_p has {W_p.shape[1]} features, W_r {W_r.shape[1]}; pair them", ShapeError)
    return W_p, W_r


@dataclass(frozen=True)
class Page:
    """A page of latents: it opens inside a notebook's cell, and `save` writes one file that needs nothing else."""

    html: str
    title: str

    def __repr__(self) -> str:
        return f"Page({self.title}, {len(self.html) / 1e6:.1f} MB); .save('latents.html') writes it"

    def _repr_html_(self) -> str:
        look = 'style="width:100%;height:720px;border:1px solid rgba(128,128,128,.35);border-radius:6px"'
        frame = f'{look} sandbox="allow-scripts allow-downloads"'
        return f'<iframe srcdoc="{escape(self.html, quote=True)}" {frame}></iframe>'

    def save(self, path: str | Path) -> Path:
        """Write the page as one HTML file."""
        return write_atomic(path, self.html.encode())


def inspect(
    model: SDL | Result | str | Path,
    rows: Any,
    target: Any = None,
    *,
    tokens: Any = None,
    texts: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    anchors: Anchors | None = None,
    most: int = 100_000,
    title: str = "Latents",
    options: Options | None = None,
) -> Page:
    """What each latent fires on: rates, strongest contexts, histograms, classes, neighbours, on one page.

    `rows`, `target`: as for `fit`; a store brings its tokens with it. `tokens`: the text of every token, a list for
    each sequence, in the order of rows [batch, sequence, width]. `texts`: the text of every row. `labels`: the class of
    every row. `most`: only the first so many rows.
    Raises: ShapeError where something is not one per row.
    """
    sdl = as_model(model)
    seen = _rows(sdl, rows, target)
    more: dict[str, Any] = {} if tokens is None else _tokens(tokens, seen.count)
    if texts is not None:
        more["texts"] = texts
    if labels is not None:
        names, codes = np.unique(np.asarray(labels), return_inverse=True)
        more["labels"] = Labels(torch.from_numpy(codes), tuple(map(str, names)))
    seen = first_rows(replace(seen, **more), most)
    about = model.about.get("method", "") if isinstance(model, Result) else ""
    return Page(inspect_page(sdl, seen, options, title=title, method=str(about), anchors=anchors), title)


def _rows(sdl: SDL, rows: Any, target: Any) -> Rows:
    if isinstance(rows, Rows):
        return rows
    if isinstance(rows, str | Path):
        return rows_from(rows, sdl, target=target)
    source = rows_for(_pairing_of(sdl), rows) if target is None else rows_for(_pairing_of(sdl), rows, target=target)
    _agree(sdl, source)
    return Rows(source)


def _tokens(tokens: Any, rows: int) -> dict[str, Any]:
    """Numbers and documents of tokens given as text, a list for each sequence."""
    known = isinstance(tokens, Sequence) and all(isinstance(part, Sequence) for part in tokens)
    check(known, f"tokens={shown(tokens)}; give the text of every token, a list for each sequence", DataError)
    flat = all(isinstance(token, str) for token in tokens)
    sequences = [tokens] if flat else [list(sequence) for sequence in tokens]
    words = [str(token) for sequence in sequences for token in sequence]
    check(len(words) == rows, f"{len(words)} tokens for {rows} rows; give the text of every row's token", ShapeError)
    vocabulary, numbers = np.unique(np.asarray(words), return_inverse=True)
    documents = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])

    def decode(chosen: Sequence[int]) -> list[str]:
        return [str(vocabulary[number]) for number in chosen]

    return {"token": numbers.astype(np.int64), "document": documents, "decode": decode}
