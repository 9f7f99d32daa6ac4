"""Look at the latents of a dictionary trained on images: scikit-learn's digits, with five classes anchored.

    python examples/inspect_digits.py --out runs/digits        # half a minute; then open runs/digits/latents.html

Rows are 1,797 images of 8 x 8 pixels, divided by their largest value. A TopK autoencoder learns 256 latents, of which
the first five are anchored at the class means of the digits 0 to 4 (Tang et al. 2025, section 4; figures 10 and 11 show
such top-activating images). The page shows for every latent the images on which it fires most, and a random sample.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from monosem import Anchoring, FitConfig, TensorSource, class_means, fit, method
from monosem.data import Labels
from monosem.inspect import Rows, inspect_page, write_inspect_page
from monosem.methods import with_anchoring


def main() -> None:
    """Train, collect, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--method", default="topk(k=8)")
    parser.add_argument("--n-q", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()

    from sklearn.datasets import load_digits

    digits = load_digits()
    images, codes = digits.images, torch.from_numpy(digits.target)
    source = TensorSource(torch.from_numpy((digits.data / 16).astype(np.float32)), digest="scikit-learn digits / 16")
    anchors = class_means(source.take(torch.arange(source.rows or 0))[0], codes, classes=torch.arange(5))
    chosen = with_anchoring(method(options.method), Anchoring())
    model = fit(chosen, source, options.n_q, FitConfig(steps=options.steps, batch_size=256), anchors).model

    def image(row: int) -> np.ndarray:
        grey = (255 - images[row] * (255 / 16)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    rows = Rows(source, Labels(codes, tuple(f"digit {i}" for i in range(10))), image=image, title="scikit-learn digits")
    names = tuple(f"digit {i}" for i in range(5))
    page = inspect_page(model, rows, title="Latents of digits", method=chosen.spec, anchors=anchors, anchor_names=names)
    print(f"open {write_inspect_page(options.out / 'latents.html', page)} in a browser ({len(page) / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
