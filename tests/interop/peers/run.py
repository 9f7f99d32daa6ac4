"""Runs in a peer's environment: the peer writes its files under theirs/, reads ours/ and notes/, and says its values.

python run.py PEER ROOT. ROOT/x.safetensors holds the inputs; values go to ROOT/values/<which>/<case>.safetensors.
"""

import importlib
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main(peer: str, root: Path) -> None:
    """Make, read and evaluate every case."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = importlib.import_module(f"{peer}_peer")
    x = load_file(root / "x.safetensors")["x"]
    for which in ("theirs", "ours", "notes"):
        (root / "values" / which).mkdir(parents=True, exist_ok=True)

    def say(which: str, case: str, latents: torch.Tensor, x_hat: torch.Tensor) -> None:
        values = {"latents": latents.detach().contiguous().clone(), "x_hat": x_hat.detach().contiguous().clone()}
        save_file(values, root / "values" / which / f"{case}.safetensors")

    (root / "theirs").mkdir(exist_ok=True)
    for case, latents, x_hat in module.make(root / "theirs", x):
        say("theirs", case, latents, x_hat)
    for which in ("ours", "notes"):
        for folder in sorted((root / which).glob("*")):
            latents, x_hat = module.read(folder, x)
            say(which, folder.name, latents, x_hat)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
