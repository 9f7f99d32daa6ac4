"""Figures 10 and 11: the rows on which a latent is largest, without anchoring and with it, on images of digits."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from monosem import FitConfig, TensorSource, class_means
from monosem.methods import method
from monosem.report import INK, PALETTE
from monosem.train import fit
from studies.engine.cells import Results
from studies.engine.computed import Computed
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study

_CLASSES, _SHOWN, _COUNTED = 5, 10, 50
_METHOD, _N_Q = "topk(k=8)", 256


def _digits() -> tuple[np.ndarray, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = torch.from_numpy((digits.data / 16).astype(np.float32))
    return digits.images, rows, torch.from_numpy(digits.target).long()


def top_examples(anchored: bool, folder: Path, config: FitConfig) -> dict[str, Any]:
    """For the classes 0 to 4, the images on which their latent is largest, and how many of the first fifty are of it.

    A TopK autoencoder of scikit-learn's 1,797 digits. With anchoring, a class's latent is the one that is anchored at
    its mean; without, the one whose decoder column has the largest cosine with that mean, of distinct latents.
    """
    _, rows, classes = _digits()
    source = TensorSource(rows, digest="scikit-learn digits / 16")
    means = class_means(rows, classes, classes=torch.arange(_CLASSES))
    model = fit(method(_METHOD), source, _N_Q, config, means if anchored else None).model
    with torch.no_grad():
        code = model.encode(rows).to_dense()
        cosine = torch.nn.functional.normalize(means.r, dim=0).T @ torch.nn.functional.normalize(model.W_D, dim=0)
    latents = torch.arange(_CLASSES) if anchored else _distinct(cosine)
    shown = []
    for c, latent in enumerate(latents.tolist()):
        order, of_class = code[:, latent].argsort(descending=True), classes == c
        shown.append(
            {
                "class": c,
                "latent": latent,
                "cosine": float(cosine[c, latent]),
                "of_the_strongest": float(of_class[order[:_COUNTED]].float().mean()),
                "of_all_firings": float(of_class[code[:, latent] > 0].float().mean()),
                "fires_on_class": float((code[of_class, latent] > 0).float().mean()),
                "rows": order[: _COUNTED : _COUNTED // _SHOWN].tolist(),
            }
        )
    shares = [one["of_the_strongest"] for one in shown]
    return {
        "data": "scikit-learn digits",
        "method": _METHOD,
        "n_q": _N_Q,
        "steps": config.steps,
        "anchored": anchored,
        "latents": shown,
        "shows": f"Digits 0 to {_CLASSES - 1}, {'anchored at their class means' if anchored else 'no anchors'}: of the "
        f"{_COUNTED} images on which a class's latent is largest, {min(shares):.0%} to {max(shares):.0%} are of the "
        f"class ({sum(shares) / len(shares):.0%} on average); cosine with the class mean "
        f"{min(one['cosine'] for one in shown):.2f} or more.",
    }


def _distinct(cosine: Tensor) -> Tensor:
    """For each class a latent of its own, so that the sum of cosines is largest."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(cosine.numpy(), maximize=True)[1])


def _figure(results: Results) -> Figure | None:
    if not results.records:
        return None
    record, (images, _, classes) = results.records[0], _digits()
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    for line, one in zip(figure.subplots(_CLASSES, _SHOWN), record["latents"], strict=True):
        for axes, row in zip(line, one["rows"], strict=True):
            axes.imshow(images[row], cmap="Greys")
            axes.set(xticks=[], yticks=[])
            wrong = int(classes[row]) != one["class"]
            for side in axes.spines.values():
                side.set(color=PALETTE[3] if wrong else INK, linewidth=2.0 if wrong else 0.5)
        label = f"digit {one['class']}\n{one['of_the_strongest']:.0%}"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    title = (
        f"Every fifth of the {_COUNTED} images on which each latent is largest, "
        f"{'with' if record['anchored'] else 'without'} anchoring; thick frames: another digit"
    )
    figure.suptitle(title, fontsize=9, color=INK, x=0.01, ha="left")
    return figure


def _about() -> str:
    return (
        "Images of scikit-learn's digits, which need no download. [Figure 10](figure10.md) is without anchoring, "
        "[figure 11](figure11.md) with it. **With a reservation:** our copy of the paper's text says that figures 10 "
        "and 11 show top-activating examples without and with anchoring, not which shows what. Any dictionary can be "
        "looked at in this way: [inspect](../inspect.md)."
    )


def _study(name: str, anchored: bool) -> Study:
    def runs(scale: Scale) -> Iterator[Entry]:
        config = FitConfig(steps=200 if scale.name == "nano" else 2000, batch_size=256, threads=1)
        yield Entry(name, "", Computed(name, partial(top_examples, anchored), config))

    return Study(
        name,
        f"Figure {name.removeprefix('figure')}: top-activating examples, with{'' if anchored else 'out'} anchoring",
        runs,
        about=_about,
        says=lambda results: "".join(record["shows"] for record in results.records),
        tables=lambda results: (),
        figure=_figure,
        seeds=(0,),
        packed="other",
    )


FIGURE10, FIGURE11 = _study("figure10", anchored=False), _study("figure11", anchored=True)
