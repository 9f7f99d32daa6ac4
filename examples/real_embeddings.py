"""Feature anchoring on real representations: do anchors at half of the classes help to find the other half?

Class means of labelled embeddings stand in for true features (Tang et al. 2025, section 4 and table 2). Half of the
classes anchor latents; the other half is held out. Each class scores the best |cos| of a decoder column with its mean:
plain and anchored, beside random directions and the anchors alone, counted over held-out, anchored and all classes
apart, because a count over all is mostly about what anchoring was told. "Joined" is the plain dictionary with the
anchors put beside it, untrained: what anchoring reaches beyond that was learned.

    python examples/real_embeddings.py --dataset digits --steps 50 --seeds 1       # no download: scikit-learn's digits
    monosem fetch ada40 && python examples/real_embeddings.py                      # 10,000 vectors, 40 classes
    monosem fetch newsgroups minilm && python examples/real_embeddings.py --dataset newsgroups
    monosem fetch cifar10 resnet50 && python examples/real_embeddings.py --dataset cifar10 --n-q 512 --steps 300

One record per run; called again it goes on. --report only prints the table and draws the figure of --out. Means are
centred on the mean of all class means, for anchors and for scores alike: raw ones nearly coincide.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem import FitConfig, TensorSource, method
from monosem.bench.real import RealRun, class_scores, code_scores, run_real
from monosem.bench.records import read_records
from monosem.report.interval import interval
from monosem.representations.class_means import class_anchors
from monosem.representations.labels import Labels
from monosem.representations.source import FileSource
from monosem.representations.table import Table

STUDY = "real-classes"
METHODS = ("topk", "batch_topk", "matryoshka")

Data = tuple[torch.Tensor, Labels]


def digits(_: int | None) -> Data:
    """1,797 images of digits [rows, 64], ten classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.data).float(), Labels(torch.from_numpy(found.target).long(), tuple("0123456789"))


def ada40(_: int | None) -> Data:
    """10,000 embeddings [rows, 1536] of trivia questions and their 40 categories."""
    from monosem.representations.assets_data import ada40 as load

    return load()


def newsgroups(limit: int | None) -> Data:
    """MiniLM vectors [rows, 384] of posts and their 20 groups; the first call computes them (minutes)."""
    from monosem.representations.assets_vectors import text_vectors

    told = lambda done, of: print(f"encoded {done:,} of {of:,} posts", flush=True)  # noqa: E731
    rows, texts = text_vectors("newsgroups", limit or 10_000, told)
    return rows, texts.single()


def cifar10(limit: int | None) -> Data:
    """ResNet-50 features [rows, 2048] of CIFAR-10's test images at 128 pixels; the first call computes them."""
    from monosem.representations.assets_vectors import image_vectors

    return image_vectors(limit or 5_000, told=lambda done, of: print(f"encoded {done:,} of {of:,} images", flush=True))


DATASETS = {"ada40": ada40, "newsgroups": newsgroups, "cifar10": cifar10, "digits": digits}


def scaled(rows: torch.Tensor) -> torch.Tensor:
    """Centred, and one factor for all rows, so that the squared norm averages the number of columns."""
    rows = rows - rows.mean(0)
    return rows * (rows.shape[1] / rows.square().sum(1).mean()).sqrt()


def study(options: argparse.Namespace) -> None:
    """Train every method plain and anchored with every seed, and print each score."""
    rows, labels = DATASETS[options.dataset](options.rows)
    order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(0))[: options.rows]
    rows, labels = scaled(rows[order]), Labels(labels.codes[order], labels.names)
    held = rows.shape[0] // 10
    table = FileSource(Table(rows, Path(options.dataset)))
    means = class_anchors(table, labels)
    anchored = torch.randperm(means.k, generator=torch.Generator().manual_seed(1))[: means.k // 2].sort().values
    anchors = class_anchors(table, labels, [labels.names[c] for c in anchored.tolist()])
    source = TensorSource(rows[:-held], digest=table.digest)
    spec = {"classes": means.k, "anchored": [labels.names[c] for c in anchored.tolist()], "held_out_rows": held}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in METHODS:
            for given in (None, anchors):
                config = FitConfig(options.steps, options.batch, options.lr, seed=seed, threads=1)
                built = method(f"{name}(k={options.k})")
                run = RealRun(STUDY, options.dataset, spec, source, built, options.n_q, config, given)

                def scores(result: Any, given: Any = given) -> dict[str, Any]:
                    found: dict[str, Any] = dict(class_scores(result.model, means, anchored))
                    found["value"] = found["value"] | code_scores(result.model, rows[-held:], rows[-held:])
                    if given is None:
                        del found["anchors_alone"]
                    return found

                record = run_real(run, options.out, scores)
                cells = [f"{part} {_score(record, part):.3f}" for part in ("held_out", "anchored", "all")]
                kind = "anchored" if given else "plain"
                print(f"{options.dataset} {name:<11} {kind:<8} seed {seed}: {'  '.join(cells)}", flush=True)


def _score(record: dict[str, Any], part: str, what: str = "M_IP", who: str = "value") -> float:
    return float(record["metrics"][f"{part}.decoder_cosine.{what}"][who])


def report(records: list[dict[str, Any]]) -> str:
    """A table in markdown: per set and method, plain and anchored, the paired gain on held-out classes."""
    lines = [
        "| set | method | | held out | anchored | all | held out > .8 | all > .8 | FVU | gain | beyond joined |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for data, name in [(data, name) for data in _sets(records) for name in METHODS]:
        arms = {kind: _arm(records, data, name, kind == "anchored") for kind in ("plain", "anchored")}
        pairs = list(zip(*arms.values(), strict=False))
        if not pairs:  # nothing to compare yet
            continue
        gains = [
            [_score(anchored, "held_out") - _score(plain, part) for plain, anchored in pairs]
            for part in ("held_out", "held_out_joined")
        ]
        for kind, arm in arms.items():
            cells = [(part, "M_IP") for part in ("held_out", "anchored", "all")]
            shown = [f"{np.mean([_score(r, part, what) for r in arm]):.3f}" for part, what in cells]
            shown += [f"{np.mean([_score(r, part, 'M_GT@0.8') for r in arm]):.1%}" for part in ("held_out", "all")]
            shown.append(f"{np.mean([r['metrics']['fvu']['value'] for r in arm]):.3f}")
            gain = " | ".join(interval(g).text(sign=True) if kind == "anchored" else "" for g in gains)
            lines.append(f"| {data.removeprefix('real/')} | {name} | {kind} | {' | '.join(shown)} | {gain} |")
        if name == METHODS[-1]:
            first = arms["anchored"][0]
            for who, title in (("anchors_alone", "the anchors alone"), ("chance", "random directions")):
                shown = [f"{_score(first, part, 'M_IP', who):.3f}" for part in ("held_out", "anchored", "all")]
                shown += [f"{_score(first, part, 'M_GT@0.8', who):.1%}" for part in ("held_out", "all")]
                lines.append(f"| {data.removeprefix('real/')} | {title} | | {' | '.join(shown)} | | | |")
    return "\n".join(lines)


def _sets(records: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r["task"]["name"] for r in records))


def _arm(records: list[dict[str, Any]], data: str, name: str, anchored: bool) -> list[dict[str, Any]]:
    own = [r for r in records if (r["task"]["name"], r["method"]["name"]) == (data, name)]
    return sorted((r for r in own if bool(r["anchors"]) == anchored), key=lambda r: r["seed"]["train"])


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Per set a panel: held-out and all classes, plain and anchored; every seed a point."""
    from matplotlib.figure import Figure

    from monosem.report.style import GREY, PALETTE, plain_axes, to_svg

    sets = _sets(records)
    figure = Figure(figsize=(1.2 + 3.6 * len(sets), 3.4), layout="constrained")
    for axes, data in zip(np.atleast_1d(figure.subplots(1, len(sets), sharey=True)), sets, strict=True):
        for place, name in enumerate(METHODS):
            for arm, part, colour, marker, shift, label in (
                ("plain", "held_out", GREY, "o", -0.26, "plain, held out"),
                ("plain", "held_out_joined", PALETTE[1], "D", -0.13, "plain joined with anchors, held out"),
                ("anchored", "held_out", PALETTE[0], "o", 0.0, "anchored, held out"),
                ("plain", "all", GREY, "s", 0.2, "plain, all"),
                ("anchored", "all", PALETTE[0], "s", 0.33, "anchored, all"),
            ):
                own = _arm(records, data, name, arm == "anchored")
                x, fill = np.full(len(own), place + shift), "none" if part == "all" else colour
                axes.plot(
                    x, [_score(r, part) for r in own], marker, c=colour, mfc=fill, ms=5, label=label * (not place)
                )
        first = next(r for r in records if r["task"]["name"] == data and r["anchors"])
        for who, dashes in (("anchors_alone", "--"), ("chance", ":")):
            label = f"{who.replace('_', ' ')}, held out"
            axes.axhline(_score(first, "held_out", "M_IP", who), color=PALETTE[1], linestyle=dashes, label=label)
        axes.set_title(f"{data.removeprefix('real/')}, {first['task']['spec']['classes']} classes")
        axes.set_xticks(range(len(METHODS)), METHODS)
        plain_axes(axes)
    figure.axes[0].set(ylabel="best |cos| of a class mean, averaged", ylim=(0, 1))
    shown = [handle for handle in figure.axes[-1].get_legend_handles_labels()[0] if handle.get_label()]
    figure.axes[-1].legend(handles=shown, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_svg(figure, "Class means found by plain and anchored dictionaries, held out and all"))


def main() -> None:
    """Prepare the data, train plain and anchored, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, default="ada40")
    parser.add_argument("--rows", type=int, help="use only so many rows")
    parser.add_argument("--n-q", type=int, default=1024)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real-classes"))
    parser.add_argument("--figure", type=Path, help="default: figure.svg in --out")
    parser.add_argument("--report", action="store_true", help="only the table and the figure of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        study(options)
    records = [record for record in read_records(options.out) if record["study"] == STUDY]
    print(f"\n{report(records)}")
    draw(records, options.figure or options.out / "figure.svg")


if __name__ == "__main__":
    main()
