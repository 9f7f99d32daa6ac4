"""Absorption on real labels: does the latent of "grain" go silent on news of wheat? With and without anchoring it.

TopK sparse autoencoders on MiniLM vectors of texts whose labels nest: Reuters topics (wheat lies in grain, on documents
that carry both), or 20 Newsgroups (comp.graphics lies in comp). Latents are chosen by F1 on half of the texts and read
on the other half: on the rows of a child, how often is the parent's latent silent, and how often does a child's own
latent fire there instead (Tang et al. 2025, definition 3.2 and example 3.7)? In the anchored arms every parent has a
latent that is anchored at the mean of its texts, by its decoder column or on both sides.

    monosem fetch reuters minilm
    python examples/real_absorption.py                         # Reuters; the first call makes the vectors (minutes)
    python examples/real_absorption.py --dataset newsgroups --limit 10000 --n-q 128

One record per run; called again it goes on. --report only prints the table and draws the figure of --out.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem import FitConfig, TensorSource, method
from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring
from monosem.bench.label_absorption import Family, Fired, label_absorption
from monosem.bench.real import RealRun, code_scores, run_real
from monosem.bench.records import read_records
from monosem.core.model import SDL
from monosem.methods import with_anchoring
from monosem.report.interval import interval
from studies.assets.data import Texts
from studies.assets.vectors import text_vectors

STUDY = "real-absorption"
ARMS = ("plain", "anchored", "both sides")
"""No anchors; the default anchoring, which holds decoder columns; encoder rows and decoder columns held."""


def families(dataset: str, texts: Texts) -> tuple[tuple[Family, ...], dict[str, torch.Tensor]]:
    """The families of a set, and which texts carry which of their labels."""
    if dataset == "reuters":
        nested = (
            Family("grain", ("wheat", "corn", "rice", "barley")),
            Family("oilseed", ("soybean", "rapeseed")),
            Family("money-fx", ("dlr", "yen")),
        )
        return nested, {name: texts.having(name) for f in nested for name in (f.parent, *f.children)}
    groups = sorted({label[0] for label in texts.labels})
    labels = {name: texts.having(name) for name in groups}
    found: tuple[Family, ...] = ()
    for parent in ("comp", "rec", "sci", "talk"):
        children = tuple(name for name in groups if name.startswith(f"{parent}."))
        labels[parent] = torch.stack([labels[name] for name in children]).any(0)
        found = (*found, Family(parent, children))
    return found, labels


def fired(model: SDL, rows: torch.Tensor, labels: dict[str, torch.Tensor], where: torch.Tensor) -> Fired:
    """The latents of some of the rows."""
    with torch.no_grad():
        dense = torch.cat([model.encode(part).to_dense() for part in torch.split(rows[where], 1024)])
    return Fired(dense, {name: label[where] for name, label in labels.items()})


def study(options: argparse.Namespace) -> None:
    """Train plain and anchored with every seed."""
    told = lambda done, of: print(f"encoded {done:,} of {of:,} texts", flush=True)  # noqa: E731
    rows, texts = text_vectors(options.dataset, options.limit, told)
    rows = rows - rows.mean(0)
    rows = rows * (rows.shape[1] / rows.square().sum(1).mean()).sqrt()
    nested, labels = families(options.dataset, texts)
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
                seen, read = fired(model, rows, labels, choose), fired(model, rows, labels, test)
                value: dict[str, Any] = dict(code_scores(model, rows[test], rows[test]))
                for number, family in enumerate(nested):
                    latent = None if given is None else number
                    value[family.parent] = label_absorption(seen, read, family, latent)
                return {"value": value}

            record = run_real(run, options.out, scores)
            shown = [f"{f.parent} {_value(record, f'{f.parent}.{f.parent}.recall'):.2f}" for f in nested]
            print(f"{arm:<8} seed {seed}: FVU {_value(record, 'fvu'):.3f}; recall {'  '.join(shown)}", flush=True)


def _value(record: dict[str, Any], name: str) -> float:
    return float(record["metrics"][name]["value"])


def _split(records: list[dict[str, Any]], data: str) -> dict[str, list[dict[str, Any]]]:
    own = [record for record in records if record["task"]["name"] == data]
    return {arm: [r for r in own if _arm(r) == arm] for arm in ARMS}


def _arm(record: dict[str, Any]) -> str:
    if record["anchors"] is None:
        return "plain"
    return "both sides" if record["anchors"]["form"].endswith("/both") else "anchored"


def report(records: list[dict[str, Any]], data: str) -> str:
    """Markdown: per child the shares, plain and anchored; per parent what its latent is worth."""
    arms = _split(records, data)
    nested = arms["plain"][0]["task"]["spec"]["families"]
    lines = [
        "| parent | child | texts | silent, plain | anchored | absorbed, plain | anchored | at size | anchored |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for parent, children in nested.items():
        for child in children:
            texts = int(_value(arms["plain"][0], f"{parent}.{child}.rows"))
            cells = [
                interval([_value(r, f"{parent}.{child}.{what}") for r in arms[arm]]).text(2)
                for what in ("silent", "absorbed", "silent_at_size")
                for arm in ARMS[:2]
            ]
            lines.append(f"| {parent} | {child} | {texts} | {' | '.join(cells)} |")
        name = f"{parent}.{parent}.silent_alone"
        if name in arms["plain"][0]["metrics"]:
            texts = int(_value(arms["plain"][0], f"{parent}.{parent}.rows_alone"))
            cells = [interval([_value(r, name) for r in arms[arm]]).text(2) for arm in ARMS[:2]]
            lines.append(f"| {parent} | (none of them) | {texts} | {' | '.join(cells)} | | | | |")
    lines += [
        "",
        "| parent | arm | F1 | recall | precision | fires on | recall at size |",
        "|---|---|---|---|---|---|---|",
    ]
    for parent in nested:
        for arm in [arm for arm in ARMS if arms[arm]]:
            cells = [
                interval([_value(r, f"{parent}.{parent}.{what}") for r in arms[arm]]).text(2)
                for what in ("f1", "recall", "precision", "rate", "recall_at_size")
            ]
            lines.append(f"| {parent} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(records: list[dict[str, Any]], data: str, path: Path) -> None:
    """Per child: the share of its texts on which the parent's latent is silent, and of these the absorbed ones."""
    from matplotlib.figure import Figure

    from monosem.report.style import GREY, PALETTE, plain_axes, to_svg

    arms = _split(records, data)
    nested = arms["plain"][0]["task"]["spec"]["families"]
    names = [(parent, child) for parent, children in nested.items() for child in children]
    figure = Figure(figsize=(max(7.0, 1.6 + 0.62 * len(names)), 4.0), layout="constrained")
    axes = figure.subplots()
    for arm, colour, shift in (("plain", GREY, -0.2), ("anchored", PALETTE[0], 0.2)):
        for what, alpha in (("silent", 0.35), ("absorbed", 1.0)):
            heights = [np.mean([_value(r, f"{p}.{c}.{what}") for r in arms[arm]]) for p, c in names]
            places = np.arange(len(names)) + shift
            label = f"{arm}: silent" + (", a child's latent fires" if what == "absorbed" else "")
            axes.bar(places, heights, 0.36, color=colour, alpha=alpha, label=label)
    axes.set_xticks(range(len(names)), [f"{c}\nin {p}" for p, c in names], rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="share of the child's texts", ylim=(0, 1))
    plain_axes(axes)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_svg(figure, "Silence of parents' latents on children's texts, plain and anchored"))
    print(f"figure: {path}")


def main() -> None:
    """Make the vectors, train, read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("reuters", "newsgroups"), default="reuters")
    parser.add_argument("--limit", type=int, help="use only so many texts")
    parser.add_argument("--n-q", type=int, default=512)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real-absorption"))
    parser.add_argument("--figure", type=Path, help="default: DATASET.svg in --out")
    parser.add_argument("--report", action="store_true", help="only the table and the figure of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        study(options)
    data = f"real/{options.dataset}"
    records = [r for r in read_records(options.out) if r["study"] == STUDY and r["task"]["name"] == data]
    print(f"\n{report(records, data)}")
    draw(records, data, options.figure or options.out / f"{options.dataset}.svg")


if __name__ == "__main__":
    main()
