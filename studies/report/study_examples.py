"""Figures 10 and 11: the rows on which a latent is largest, without anchoring and with it, on images of digits."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from monosem.anchors.directions import class_means
from monosem.core.pairs import TensorSource
from monosem.methods import method
from monosem.train.config import FitConfig
from monosem.train.loop import fit

_CLASSES, _SHOWN, _COUNTED = 5, 10, 50
_METHOD, _N_Q = "topk(k=8)", 256


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, torch.from_numpy((found.data / 16).astype(np.float32)), torch.from_numpy(found.target).long()


def top_examples(anchored: bool, steps: int) -> tuple[Figure, dict[str, Any], str]:
    """For the classes 0 to 4, the images on which their latent is largest, and how many of the first fifty are of it.

    A TopK autoencoder of scikit-learn's 1,797 digits. With anchoring, a class's latent is the one that is anchored at
    its mean; without, the one whose decoder column has the largest cosine with that mean, of distinct latents.
    """
    images, rows, classes = _digits()
    source = TensorSource(rows, digest="scikit-learn digits / 16")
    means = class_means(rows, classes, classes=torch.arange(_CLASSES))
    config = FitConfig(steps=steps, batch_size=256, threads=1)
    model = fit(method(_METHOD), source, _N_Q, config, means if anchored else None, progress=True).model
    with torch.no_grad():
        code = model.encode(rows).to_dense()
        cosine = torch.nn.functional.normalize(means.r, dim=0).T @ torch.nn.functional.normalize(model.W_D, dim=0)
    latents = torch.arange(_CLASSES) if anchored else _distinct(cosine)
    order = [code[:, latent].argsort(descending=True) for latent in latents.tolist()]
    of_class = [classes == c for c in range(_CLASSES)]
    numbers: dict[str, Any] = {
        "data": "scikit-learn digits",
        "method": _METHOD,
        "n_q": _N_Q,
        "steps": steps,
        "anchored": anchored,
        "latents": [
            {
                "class": c,
                "latent": latent,
                "cosine": float(cosine[c, latent]),
                "of_the_strongest": float(of_class[c][order[c][:_COUNTED]].float().mean()),
                "of_all_firings": float(of_class[c][code[:, latent] > 0].float().mean()),
                "fires_on_class": float((code[of_class[c], latent] > 0).float().mean()),
                "rows": order[c][: _COUNTED : _COUNTED // _SHOWN].tolist(),
            }
            for c, latent in enumerate(latents.tolist())
        ],
    }
    shares = [one["of_the_strongest"] for one in numbers["latents"]]
    text = (
        f"Digits 0 to {_CLASSES - 1}, {'anchored at their class means' if anchored else 'no anchors'}: of the "
        f"{_COUNTED} images on which a class's latent is largest, {min(shares):.0%} to {max(shares):.0%} are of the "
        f"class ({sum(shares) / len(shares):.0%} on average); cosine with the class mean "
        f"{min(one['cosine'] for one in numbers['latents']):.2f} or more."
    )
    return _drawn(images, classes, numbers), numbers, text


def _distinct(cosine: Tensor) -> Tensor:
    """For each class a latent of its own, so that the sum of cosines is largest."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(cosine.numpy(), maximize=True)[1])


def _drawn(images: np.ndarray, classes: Tensor, numbers: dict[str, Any]) -> Figure:
    from monosem.report.style import INK, PALETTE

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    grid = figure.subplots(_CLASSES, _SHOWN)
    for line, one in zip(grid, numbers["latents"], strict=True):
        for axes, row in zip(line, one["rows"], strict=True):
            axes.imshow(images[row], cmap="Greys")
            axes.set(xticks=[], yticks=[])
            wrong = int(classes[row]) != one["class"]
            for side in axes.spines.values():
                side.set(color=PALETTE[3] if wrong else INK, linewidth=2.0 if wrong else 0.5)
        line[0].set_ylabel(
            f"digit {one['class']}\n{one['of_the_strongest']:.0%}", rotation=0, ha="right", va="center", fontsize=9
        )
    figure.suptitle(
        f"Every fifth of the {_COUNTED} images on which each latent is largest, "
        f"{'with' if numbers['anchored'] else 'without'} anchoring; thick frames: another digit",
        fontsize=9,
        color=INK,
        x=0.01,
        ha="left",
    )
    return figure
