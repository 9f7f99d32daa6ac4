"""k-sparse probing on real labels: how well do k latents tell a class from the others, by method?

python -m studies probing            scikit-learn's digits
python -m studies probing newsgroups    20 Newsgroups as MiniLM vectors (`python -m studies fetch newsgroups minilm`)

A probe reads the k latents whose means differ most between a class and the rest, and is fitted and scored on other
halves of rows that no dictionary was trained on. Beside the methods: the rows' own coordinates, and a TopK autoencoder
that was never trained. One thread.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem import FitConfig, TensorSource, fit, method
from monosem.bench import environment, sparse_probe
from monosem.report import fill, interval, table
from studies.page import provenance
from studies.stored import run_missing, stored

PAGE = Path("docs/lenses.md")
SETS = ("digits", "newsgroups")
SEEDS, COUNTS = range(3), (1, 4, 16)
METHODS = ("topk(k=8)", "batch_topk(k=8)", "matryoshka(k=8)", "abs_topk(k=8)", "jumprelu", "relu_l1")
REFERENCES = ("coordinates", "untrained")
N_Q, STEPS, TEXTS = 512, 600, 4000


def main(words: Sequence[str] = ()) -> None:
    """Run what the records of a set lack."""
    torch.set_num_threads(1)
    name = words[0] if words else SETS[0]
    x, labels = _rows(name)
    order = torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(0))
    x, labels = x[order], labels[order]
    about = {"command": f"python -m studies probing {name}", "env": environment(), "rows": x.shape[0]}
    run_missing(f"probing/{name}", about, _runs(x, labels))


def _rows(name: str) -> tuple[Tensor, Tensor]:
    """Centred rows of unit mean square, and the class of each."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, labels = torch.from_numpy(digits.data).float(), torch.from_numpy(digits.target)
    else:
        from studies.assets.data import text_vectors

        x, texts = text_vectors(name, TEXTS)
        groups = sorted({one[0] for one in texts.labels})
        labels = torch.tensor([groups.index(one[0]) for one in texts.labels])
    x = x - x.mean(0)
    return x * (x.shape[1] / x.square().sum(1).mean()).sqrt(), labels


def _runs(x: Tensor, labels: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    for seed in SEEDS:
        for text in (*METHODS, *REFERENCES):
            yield f"{text}/{seed}", partial(_probed, x, labels, text, seed)


def _probed(x: Tensor, labels: Tensor, text: str, seed: int) -> dict[str, Any]:
    """Mean scores over classes, on the half of the rows that no dictionary saw."""
    half = x.shape[0] // 2
    if text == "coordinates":
        codes = x[half:]
    else:
        config = FitConfig(steps=STEPS, batch_size=256, lr=3e-3, seed=seed, threads=1)
        config = config if text in METHODS else FitConfig(steps=1, batch_size=256, lr=1e-12, seed=seed, threads=1)
        name = text if text in METHODS else METHODS[0]
        model = fit(method(name), TensorSource(x[:half]), N_Q, config).model
        with torch.no_grad():
            codes = model.encode(x[half:]).to_dense()
    scores: dict[str, Any] = {"l0": float((codes != 0).sum(1).float().mean())}
    for k in COUNTS:
        probes = [sparse_probe(codes, labels[half:] == one, k) for one in torch.unique(labels).tolist()]
        scores[str(k)] = {key: sum(p[key] for p in probes) / len(probes) for key in ("accuracy", "f1")}
    return scores


def page() -> None:
    """Fill the page."""
    parts = [_table(name, record) for name in SETS if (record := stored(f"probing/{name}"))]
    fill(PAGE, {"probing": "\n\n".join(parts) or "Not run yet."})


def _table(name: str, record: Mapping[str, Any]) -> str:
    rows: list[Sequence[object]] = [("", "seeds", "L0", *(f"F1, k = {k}" for k in COUNTS), "accuracy, k = 1")]
    for text in (*METHODS, *REFERENCES):
        runs = [record["runs"][f"{text}/{seed}"] for seed in SEEDS if f"{text}/{seed}" in record["runs"]]
        if runs:
            f1 = [interval(run[str(k)]["f1"] for run in runs).text() for k in COUNTS]
            l0 = f"{sum(run['l0'] for run in runs) / len(runs):.1f}"
            rows.append((f"`{text}`", len(runs), l0, *f1, f"{interval(r['1']['accuracy'] for r in runs).text()}"))
    return f"{name}, {record['rows']} rows, {N_Q} latents:\n\n{table(rows, numbers=True)}\n\n{provenance([record])}."
