"""Absorption on real labels: does the latent of "grain" go silent on news of wheat? With and without anchoring it.

TopK sparse autoencoders on MiniLM vectors of texts whose labels nest: Reuters topics (wheat lies in grain, on documents
that carry both), or 20 Newsgroups (comp.graphics lies in comp). Latents are chosen by F1 on half of the texts and read
on the other half: on the rows of a child, how often is the parent's latent silent, and how often does a child's own
latent fire there instead (Tang et al. 2025, definition 3.2 and example 3.7)? In the anchored arms every parent has a
latent that is anchored at the mean of its texts, by its decoder column or on both sides.

    python -m studies fetch reuters minilm
    python -m studies real_absorption              # Reuters; the first call makes the vectors (minutes)
    python -m studies real_absorption --dataset newsgroups --limit 10000 --n-q 128

A run that has a record is kept.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from monosem import SDL, Anchoring, Anchors, FitConfig, TensorSource, method
from monosem.bench import Family, Fired, RealRun, code_scores, label_absorption, read_records, run_real
from monosem.methods import with_anchoring
from monosem.report import BLUE, GREY, fill, interval, plain_axes, table, write_figure
from studies.assets.data import Texts, text_vectors
from studies.options import Options
from studies.stored import packed

STUDY = "real-absorption"
PAGE, FIGURES = Path("docs/real/absorption.md"), Path("docs/figures")
Record = dict[str, Any]
ARMS = ("plain", "anchored", "both sides")
"""No anchors; the default anchoring, which holds decoder columns; encoder rows and decoder columns held."""


def _families(dataset: str, texts: Texts) -> tuple[tuple[Family, ...], dict[str, torch.Tensor]]:
    """The families of a set, and which texts carry which of their labels."""
    if dataset == "reuters":
        topics = (
            Family("grain", ("wheat", "corn", "rice", "barley")),
            Family("oilseed", ("soybean", "rapeseed")),
            Family("money-fx", ("dlr", "yen")),
        )
        return topics, {name: texts.having(name) for f in topics for name in (f.parent, *f.children)}
    groups = sorted({label[0] for label in texts.labels})
    labels = {name: texts.having(name) for name in groups}
    nested: tuple[Family, ...] = ()
    for parent in ("comp", "rec", "sci", "talk"):
        children = tuple(name for name in groups if name.startswith(f"{parent}."))
        labels[parent] = torch.stack([labels[name] for name in children]).any(0)
        nested = (*nested, Family(parent, children))
    return nested, labels


def _fired(model: SDL, rows: torch.Tensor, labels: dict[str, torch.Tensor], where: torch.Tensor) -> Fired:
    """The latents of some of the rows."""
    with torch.no_grad():
        dense = torch.cat([model.encode(part).to_dense() for part in torch.split(rows[where], 1024)])
    return Fired(dense, {name: label[where] for name, label in labels.items()})


def _train(options: argparse.Namespace) -> None:
    """Train plain and anchored with every seed."""
    encoded = partial(print, "encoded texts, of:")
    rows, texts = text_vectors(options.dataset, options.limit, encoded)
    rows = rows - rows.mean(0)
    rows = rows * (rows.shape[1] / rows.square().sum(1).mean()).sqrt()
    nested, labels = _families(options.dataset, texts)
    order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(0))
    choose, test = order[: rows.shape[0] // 2], order[rows.shape[0] // 2 :]
    # rows are centred: the mean of a parent's rows is its direction; only rows that choose latents are asked
    means = torch.stack([rows[choose][labels[f.parent][choose]].mean(0) for f in nested], 1)
    anchors = Anchors(means, means, "class_means")
    for number, family in enumerate(nested):  # the anchor as a detector, with no autoencoder at all
        here = labels[family.parent][test]
        strongest = (rows[test] @ anchors.p[:, number]).topk(int(here.sum())).indices
        print(f"{family.parent}: its anchor alone has recall {here[strongest].float().mean():.2f} at size", flush=True)
    source = TensorSource(rows, digest=f"{options.dataset}-minilm-{rows.double().sum().item():.9e}")
    spec = {"families": {f.parent: list(f.children) for f in nested}, "rows_read": test.numel()}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arm in ARMS:
            config = FitConfig(options.steps, options.batch, options.lr, seed=seed, threads=1)
            given = None if arm == "plain" else anchors
            plan = Anchoring(sides="both" if arm == "both sides" else "decoder")
            built = with_anchoring(method(f"topk(k={options.k})"), plan)
            run = RealRun(STUDY, options.dataset, spec, source, built, options.n_q, config, given)

            def scores(result: Any, given: Anchors | None = given) -> dict[str, Any]:
                model = result.model
                seen, read = _fired(model, rows, labels, choose), _fired(model, rows, labels, test)
                value: dict[str, Any] = dict(code_scores(model, rows[test], rows[test]))
                for number, family in enumerate(nested):
                    latent = None if given is None else number
                    value[family.parent] = label_absorption(seen, read, family, latent)
                return {"value": value}

            record = run_real(run, options.out, scores)
            shown = [f"{f.parent} {_value(record, f'{f.parent}.{f.parent}.recall'):.2f}" for f in nested]
            print(f"{arm:<8} seed {seed}: FVU {_value(record, 'fvu'):.3f}; recall {'  '.join(shown)}", flush=True)


def _value(record: Record, name: str) -> float:
    return float(record["metrics"][name]["value"])


def _arms(runs: Path, data: str) -> dict[str, list[Record]]:
    """The runs on a set of texts by arm."""
    own = [r for r in read_records(runs) if r["study"] == STUDY and r["task"]["name"] == f"real/{data}"]
    return {arm: [record for record in own if _arm(record) == arm] for arm in ARMS}


def _arm(record: Record) -> str:
    if record["anchors"] is None:
        return "plain"
    return "both sides" if record["anchors"]["form"].endswith("/both") else "anchored"


_HEAD = "parent | child | texts | silent, plain | anchored | absorbed, plain | anchored | at size | anchored"


def _tables(arms: dict[str, list[Record]]) -> str:
    """Per child the shares, plain and anchored; per parent what its latent is worth."""
    first = arms["plain"][0]
    nested = first["task"]["spec"]["families"]

    def cells(name: str, whats: Sequence[str], of: Sequence[str]) -> list[str]:
        return [interval([_value(r, f"{name}.{what}") for r in arms[arm]]).text(2) for what in whats for arm in of]

    pair = ("plain", "anchored")
    children = [_HEAD.split(" | ")]
    for parent, names in nested.items():
        for child in names:
            texts = int(_value(first, f"{parent}.{child}.rows"))
            shares = cells(f"{parent}.{child}", ("silent", "absorbed", "silent_at_size"), pair)
            children.append([parent, child, str(texts), *shares])
        if f"{parent}.{parent}.silent_alone" in first["metrics"]:
            texts = int(_value(first, f"{parent}.{parent}.rows_alone"))
            alone = cells(f"{parent}.{parent}", ("silent_alone",), pair)
            children.append([parent, "(none of them)", str(texts), *alone, "", "", "", ""])
    parents = [["parent", "arm", "F1", "recall", "precision", "fires on", "recall at size"]]
    whats = ("f1", "recall", "precision", "rate", "recall_at_size")
    parents += [[p, arm, *cells(f"{p}.{p}", whats, (arm,))] for p in nested for arm in ARMS if arms[arm]]
    return f"{table(children)}\n\n{table(parents)}"


def _figure(arms: dict[str, list[Record]]) -> Figure:
    """Per child: the share of its texts on which the parent's latent is silent, and of these the absorbed ones."""
    nested = arms["plain"][0]["task"]["spec"]["families"]
    names = [(parent, child) for parent, children in nested.items() for child in children]
    figure = Figure(figsize=(max(7.0, 1.6 + 0.62 * len(names)), 4.0), layout="constrained")
    axes = figure.subplots()
    for arm, colour, shift in (("plain", GREY, -0.2), ("anchored", BLUE, 0.2)):
        for what, alpha in (("silent", 0.35), ("absorbed", 1.0)):
            heights = [np.mean([_value(r, f"{p}.{c}.{what}") for r in arms[arm]]) for p, c in names]
            places = np.arange(len(names)) + shift
            label = f"{arm}: silent" + (", a child's latent fires" if what == "absorbed" else "")
            axes.bar(places, heights, 0.36, color=colour, alpha=alpha, label=label)
    axes.set_xticks(range(len(names)), [f"{c}\nin {p}" for p, c in names], rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="share of the child's texts", ylim=(0, 1))
    plain_axes(axes)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw(arms: dict[str, list[Record]], path: Path) -> None:
    write_figure(path, _figure(arms), "Silence of parents' latents on children's texts, plain and anchored")


def main(words: Sequence[str] = ()) -> None:
    """Make the vectors, train what has no record, read."""
    parser = Options("real_absorption", n_q=512, k=16, steps=800, batch=256, lr=1e-3, seeds=5, first_seed=0)
    parser.add_argument("--dataset", choices=("reuters", "newsgroups"), default="reuters")
    parser.number("--limit", None, "use only so many texts")
    parser.path("--out", "runs/real-absorption")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    _train(options)
    arms = _arms(options.out, options.dataset)
    print(f"\n{_tables(arms)}")
    _draw(arms, options.out / f"{options.dataset}.svg")


def page() -> None:
    """Fill the page and draw its figures."""
    every = {data: _arms(packed("real-absorption"), data) for data in ("reuters", "newsgroups")}
    fill(PAGE, {data: _tables(arms) for data, arms in every.items()})
    for data, arms in every.items():
        _draw(arms, FIGURES / f"absorption-{data}.svg")
