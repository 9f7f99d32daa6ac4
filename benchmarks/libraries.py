"""Other libraries as contenders: their own training loops, in side environments made by `python -m benchmarks.peers`.

Each gets fresh rows for nothing: a ring of batches is drawn before. Sizes are shared; all else (optimiser, clipping,
decoder norm, initialisation, book-keeping) is the library's own default, and its logging is off or at its least.
"""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.contender import Beat
from benchmarks.sizes import Size, speed_task
from monosem.bench import TaskSource

_FOREVER = 10**6
_ALL = ("topk", "topk_auxk", "batch_topk", "matryoshka", "jumprelu", "relu")


class Rows:
    """An iterable of batches with a beat before each: a library's loop asks it for what the next step sees."""

    def __init__(self, size: Size, beat: Beat) -> None:
        source = TaskSource(speed_task(size))
        ring = [source.take(torch.arange(size.batch) + i * size.batch)[0] for i in range(4)]
        self.n_q, self.beat, self.ring = size.n_q, beat, cycle(ring)
        self.before: Callable[[], object] = lambda: None

    def half_dead(self, counts: Callable[[], Tensor], past: int) -> None:
        """From now on, half of the latents have not fired for `past` rows or steps, whenever a step begins."""
        half = torch.randperm(self.n_q)[: self.n_q // 2]
        self.before = lambda: counts().__setitem__(half, past)

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self.beat()
        self.before()
        return next(self.ring)


class Peer(ABC):
    """A library: its version, and how it trains each case that it has."""

    package: str
    modules: tuple[str, ...]
    cases: tuple[str, ...]

    def __init__(self) -> None:
        self.version = version(self.package)
        self.imported = [import_module(name) for name in self.modules]

    def train(self, case: str, size: Size, beat: Beat) -> None:
        """Train until the driver has had enough."""
        rows = Rows(size, beat)
        beat.baseline()
        self.loop(case, size, rows)

    @abstractmethod
    def loop(self, case: str, size: Size, rows: Rows) -> None:
        """The library's own loop over the rows."""


class _SAELens(Peer):
    """SAETrainer.fit on an iterator."""

    package = "sae-lens"
    modules = ("sae_lens", "sae_lens.config", "sae_lens.training.sae_trainer")
    cases = _ALL

    def loop(self, case: str, size: Size, rows: Rows) -> None:
        """Logging to wandb off."""
        lens, config, training = self.imported
        kinds = ("TopK", "TopK", "BatchTopK", "MatryoshkaBatchTopK", "JumpReLU", "Standard")
        name = f"{dict(zip(_ALL, kinds, strict=True))[case]}TrainingSAE"
        own: dict[str, Any] = {} if case in ("jumprelu", "relu") else {"k": size.k}
        if case == "matryoshka":
            own["matryoshka_widths"] = [int(size.n_q * share) for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)]
        sae = getattr(lens, name)(getattr(lens, f"{name}Config")(d_in=size.n_p, d_sae=size.n_q, **own))
        batches = config.SAETrainerConfig(_FOREVER * size.batch, size.batch, lr_end=3e-4)
        trainer = training.SAETrainer(batches, sae, rows)
        if case == "topk_auxk":
            rows.half_dead(lambda: trainer.n_forward_passes_since_fired, trainer.cfg.dead_feature_window + 1)
        trainer.fit()


class _DictionaryLearning(Peer):
    """trainer.update for every batch, as its trainSAE does."""

    package = "dictionary-learning"
    modules = ("dictionary_learning.trainers",)
    cases = _ALL

    def loop(self, case: str, size: Size, rows: Rows) -> None:
        """Without its wandb and its saving."""
        names: tuple[str, ...] = ("top_k.TopK", "top_k.TopK", "batch_top_k.BatchTopK")
        names += ("matryoshka_batch_top_k.MatryoshkaBatchTopK", "jumprelu.JumpRelu", "standard.Standard")
        module, _, name = dict(zip(_ALL, names, strict=True))[case].partition(".")
        own: dict[str, Any] = {} if case in ("jumprelu", "relu") else {"k": size.k}
        if case == "matryoshka":
            own["group_fractions"] = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
        kind = getattr(import_module(f"dictionary_learning.trainers.{module}"), f"{name}Trainer")
        shapes = {"steps": _FOREVER, "activation_dim": size.n_p, "dict_size": size.n_q, "layer": 0, "lm_name": "none"}
        trainer = kind(**shapes, device="cpu", **own)
        if case == "topk_auxk":
            rows.half_dead(lambda: trainer.num_tokens_since_fired, trainer.dead_feature_threshold + 1)
        for step, x in enumerate(rows):
            trainer.update(step, x)


class _Sparsify(Peer):
    """Trainer.fit on a model whose one hooked layer puts out the rows."""

    package = "eai-sparsify"
    modules = ("sparsify", "sparsify.config")
    cases = ("topk", "topk_auxk")

    def __init__(self) -> None:
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its Triton decoder fails without a GPU
        super().__init__()

    def loop(self, case: str, size: Size, rows: Rows) -> None:
        """Its default optimiser is a schedule-free SignSGD."""
        library, config = self.imported
        coder = config.SparseCoderConfig(num_latents=size.n_q, k=size.k)
        auxk = 1 / 32 if case == "topk_auxk" else 0.0
        quiet = {"save_every": _FOREVER, "log_to_wandb": False}
        settings = config.TrainConfig(coder, batch_size=1, auxk_alpha=auxk, hookpoints=["point"], **quiet)
        trainer = library.Trainer(settings, _Tokens(size.batch), _Layer(size, rows))
        if case == "topk_auxk":
            rows.half_dead(lambda: trainer.num_tokens_since_fired["point"], settings.dead_feature_threshold + 1)
        trainer.fit()


class _Tokens:
    """An endless data set of one sequence of as many tokens as a batch has rows."""

    def __init__(self, length: int) -> None:
        self.row = {"input_ids": torch.zeros(length, dtype=torch.int64)}

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.row


class _Layer(torch.nn.Module):
    """What sparsify takes for a language model."""

    def __init__(self, size: Size, rows: Rows) -> None:
        super().__init__()
        self.point, self.rows, self.width = torch.nn.Identity(), rows, size.n_p
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    @property
    def base_model(self) -> "_Layer":
        """Itself."""
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        """The rows, whatever the tokens; the first call only asks for the width."""
        asked = input_ids.numel() == 1
        x: Tensor = self.point(torch.zeros(1, 1, self.width) if asked else next(self.rows)[None])
        return x


class _Overcomplete(Peer):
    """train_sae over the rows, with Adam and its default clipping and monitoring."""

    package = "overcomplete"
    modules = ("overcomplete.sae", "overcomplete.sae.losses")
    cases = ("topk", "topk_auxk", "batch_topk", "jumprelu", "relu")

    def __init__(self) -> None:
        plots = ("overlay_top_heatmaps", "evidence_top_images", "zoom_top_images", "contour_top_image")
        images = {"models": ("DinoV2", "SigLIP", "ViT", "ResNet", "ConvNeXt"), "visualization": plots}
        for name, members in images.items():  # its image models and plots, which training does not use
            stand_in = ModuleType(f"overcomplete.{name}")
            stand_in.__dict__.update(dict.fromkeys(members))
            sys.modules[stand_in.__name__] = stand_in
        super().__init__()

    def loop(self, case: str, size: Size, rows: Rows) -> None:
        """Its BatchTopK counts over the whole batch; its auxiliary loss takes half of all latents not chosen."""
        sae, losses = self.imported
        kind, more, criterion = {
            "topk": (sae.TopKSAE, {"top_k": size.k}, _squared_error),
            "topk_auxk": (sae.TopKSAE, {"top_k": size.k}, losses.top_k_auxiliary_loss),
            "batch_topk": (sae.BatchTopKSAE, {"top_k": size.k * size.batch}, _squared_error),
            "jumprelu": (sae.JumpSAE, {}, losses.mse_l1),
            "relu": (sae.SAE, {}, losses.mse_l1),
        }[case]
        model = kind(size.n_p, size.n_q, **more)
        sae.train_sae(model, rows, criterion, torch.optim.Adam(model.parameters(), lr=1e-3), nb_epochs=1)


def _squared_error(x: Tensor, x_hat: Tensor, *_: Tensor) -> Tensor:
    """The criterion of overcomplete's own examples."""
    return (x - x_hat).square().mean()


PEERS: Mapping[str, type[Peer]] = {
    "saelens": _SAELens,
    "dictionary_learning": _DictionaryLearning,
    "sparsify": _Sparsify,
    "overcomplete": _Overcomplete,
}
"""Peers by the names that benchmarks.peers has for their environments."""


def environments(folder: Path) -> dict[str, str]:
    """The side environments that are there: the python of each peer."""
    pythons = {name: folder / name / "bin" / "python" for name in PEERS}
    return {name: str(path) for name, path in pythons.items() if path.exists()}
