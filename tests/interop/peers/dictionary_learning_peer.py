"""dictionary_learning's side: every class of the released package, saved as its trainer saves it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

D, F = 12, 40


def _classes() -> dict[str, Any]:
    from dictionary_learning import dictionary as d
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    return {
        "AutoEncoder": lambda: d.AutoEncoder(D, F),
        "AutoEncoderNew": lambda: d.AutoEncoderNew(D, F),
        "GatedAutoEncoder": lambda: d.GatedAutoEncoder(D, F),
        "JumpReluAutoEncoder": lambda: d.JumpReluAutoEncoder(D, F),
        "AutoEncoderTopK": lambda: AutoEncoderTopK(D, F, k=5),
        "BatchTopKSAE": lambda: BatchTopKSAE(D, F, k=5),
        "BatchTopKSAE-untrained": lambda: BatchTopKSAE(D, F, k=5),
        "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D, F, k=5, group_sizes=[10, 30]),
    }


def make(root: Path, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """One folder per class."""
    for case, build in _classes().items():
        ae = build()
        with torch.no_grad():
            for name, parameter in ae.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 2 else 0.3))
                if name == "threshold":
                    parameter.copy_(torch.randn_like(parameter) * 0.4)
            if hasattr(ae, "k") and "untrained" not in case:
                ae.threshold.fill_(0.8)
        folder = root / case
        folder.mkdir()
        trainer = {
            "dict_class": type(ae).__name__,
            "activation_dim": D,
            "dict_size": F,
            "lm_name": "toy",
            "layer": 0,
            "k": 5,
        }
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
        torch.save({name: value.cpu() for name, value in ae.state_dict().items()}, folder / "ae.pt")
        with torch.no_grad():
            latents = ae.encode(x)
            yield case, latents, ae.decode(latents)


def read(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Load through the package's own `load_dictionary`, decoder norms left alone."""
    from dictionary_learning import utils

    config = json.loads((folder / "config.json").read_text())
    if config["trainer"]["dict_class"] == "AutoEncoder":  # load_dictionary would rescale its latents
        ae: Any = utils.AutoEncoder.from_pretrained(str(folder / "ae.pt"), normalize_decoder=False)
    else:
        ae, _ = utils.load_dictionary(str(folder), device="cpu")
    with torch.no_grad():
        latents = ae.encode(x)
        return latents, ae.decode(latents)
