"""Do anchors at half of the classes help to find the other half? Plain and anchored training on labelled rows.

    python examples/real_embeddings.py                                           # scikit-learn's digits, no download
    python examples/real_embeddings.py --rows X.npy --labels y.npy --n-q 2048    # embeddings and classes of your own

Class means of labelled rows stand in for true features (Tang et al. 2025, section 4 and table 2). Half of the classes
anchor latents, the other half is held out. Every class scores the best |cos| of a decoder column with its mean, beside
the anchors alone and random directions. `python -m studies table2` is the measured run of the documentation.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from monosem import Anchoring, FitConfig, TensorSource, class_means, fit, method
from monosem.methods import with_anchoring


def labelled(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Centred rows of mean squared norm n_p, and the number of each row's class."""
    if options.rows is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        rows, labels = digits.data, digits.target
    else:
        rows, labels = (np.load(path, allow_pickle=False) for path in (options.rows, options.labels))
    x = torch.from_numpy(np.asarray(rows, np.float32))
    x = x - x.mean(0)
    return x * (x.shape[1] / x.square().sum(1).mean()).sqrt(), torch.from_numpy(np.asarray(labels, np.int64))


def best_cosine(columns: Tensor, means: Tensor) -> Tensor:
    """max over columns of |cos| with each class mean."""
    return (normalize(means, dim=0).T @ normalize(columns, dim=0)).abs().amax(1)


def main() -> None:
    """Train plain and anchored, and compare on held-out and on anchored classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="activations or embeddings, .npy [rows, n_p]")
    parser.add_argument("--labels", type=Path, help="class numbers from 0 on, .npy [rows]")
    parser.add_argument("--method", default="topk(k=8)")
    parser.add_argument("--n-q", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    x, labels = labelled(options)
    classes = torch.randperm(int(labels.max()) + 1, generator=torch.Generator().manual_seed(options.seed))
    anchors = class_means(x, labels, classes=classes[: len(classes) // 2])
    held_out = class_means(x, labels, classes=classes[len(classes) // 2 :])
    source = TensorSource(x, digest=f"{options.rows or 'digits'}, centred and scaled")
    config = FitConfig(steps=options.steps, batch_size=options.batch, seed=options.seed)
    dictionaries = {"random directions": torch.randn(x.shape[1], options.n_q), "the anchors alone": anchors.p}
    for arm, given in (("plain", None), ("anchored", anchors)):
        chosen = method(options.method) if given is None else with_anchoring(method(options.method), Anchoring())
        dictionaries[arm] = fit(chosen, source, options.n_q, config, given).model.W_D.detach()
    print(f"{'':<18} held out  anchored")
    for arm, columns in dictionaries.items():
        scores = [float(best_cosine(columns, means.p).mean()) for means in (held_out, anchors)]
        print(f"{arm:<18} {scores[0]:8.3f}  {scores[1]:8.3f}")


if __name__ == "__main__":
    main()
