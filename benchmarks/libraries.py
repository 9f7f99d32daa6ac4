"""Other libraries as contenders: their own training loops, in side environments made by `python -m benchmarks.peers`.

Each gets fresh rows for nothing: a ring of batches is drawn before. Sizes are shared; all else (optimiser, clipping,
decoder norm, initialisation, book-keeping) is the library's own default, and its logging is off or at its least.
"""

import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import version
from inspect import signature
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
Reads = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x -> (x_hat, code) of a library's model, as its user reads it after training."""
_ALL = ("topk", "topk_auxk", "batch_topk", "matryoshka", "jumprelu", "relu")


class Rows:
    """An iterable of batches with a beat before each: a library's loop asks it for what the next step sees.

    `steps` is how many batches there are, `factor` what a library's own learning rate is multiplied by.
    """

    def __init__(
        self,
        size: Size,
        beat: Callable[[], object],
        batches: Iterator[Tensor] | None = None,
        steps: int = _FOREVER,
        factor: float = 1.0,
    ) -> None:
        self.n_q, self.beat, self.steps, self.factor = size.n_q, beat, steps, factor
        self.batches = _ring(size) if batches is None else batches
        self.before: Callable[[], object] = lambda: None
        self.reads: Reads | None = None
        self.norm = 1.0
        """The root mean square of the rows' norms, for a library that divides by it."""

    @property
    def warmup(self) -> int:
        """Steps of warm-up of a library that has 1,000 by default: a tenth of the run at most."""
        return min(1000, self.steps // 10)

    def half_dead(self, counts: Callable[[], Tensor], past: int) -> None:
        """From now on, half of the latents have not fired for `past` rows or steps, whenever a step begins."""
        half = torch.randperm(self.n_q)[: self.n_q // 2]
        self.before = lambda: counts().__setitem__(half, past)

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self.beat()
        self.before()
        return next(self.batches)


def _ring(size: Size) -> Iterator[Tensor]:
    """Four batches of a world, round and round."""
    source = TaskSource(speed_task(size))
    return cycle([source.take(torch.arange(size.batch) + i * size.batch)[0] for i in range(4)])


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
        lr = 3e-4 * rows.factor
        batches = config.SAETrainerConfig(rows.steps * size.batch, size.batch, lr=lr, lr_end=lr)
        trainer = training.SAETrainer(batches, sae, rows)
        rows.reads = partial(self._read, sae)
        if case == "topk_auxk":
            rows.half_dead(lambda: trainer.n_forward_passes_since_fired, trainer.cfg.dead_feature_window + 1)
        trainer.fit()

    def _read(self, sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As it is saved for inference: a BatchTopK becomes a JumpReLU at its running threshold."""
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            saved = self.imported[0].SAE.load_from_disk(folder)
        code = saved.encode(x)
        return saved.decode(code), code


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
        if case == "jumprelu" and rows.steps < _FOREVER:
            own |= {"target_l0": float(size.k), "sparsity_warmup_steps": 2 * rows.warmup}
        elif rows.steps < _FOREVER and case != "relu":
            own |= {"threshold_start_step": rows.warmup}
        shapes: dict[str, Any] = {"steps": rows.steps, "warmup_steps": rows.warmup}
        shapes |= {"activation_dim": size.n_p, "dict_size": size.n_q, "layer": 0, "lm_name": "none"}
        lr = signature(kind).parameters["lr"].default or 2e-4 / (size.n_q / 2**14) ** 0.5
        trainer = kind(**shapes, device="cpu", lr=lr * rows.factor, **own)
        rows.reads = partial(self._read, trainer.ae, rows.norm)
        if case == "topk_auxk":
            rows.half_dead(lambda: trainer.num_tokens_since_fired, trainer.dead_feature_threshold + 1)
        for step, x in enumerate(rows):
            trainer.update(step, x if rows.norm == 1 else x / rows.norm)

    @staticmethod
    def _read(ae: Any, norm: float, x: Tensor) -> tuple[Tensor, Tensor]:
        """Trained on rows of mean squared norm 1, as its guide says."""
        code = ae.encode(x / norm)
        return ae.decode(code) * norm, code


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
        lr = 5e-3 / (size.n_q / 2**14) ** 0.5 * rows.factor
        settings = config.TrainConfig(coder, batch_size=1, auxk_alpha=auxk, hookpoints=["point"], lr=lr, **quiet)
        trainer = library.Trainer(settings, _Tokens(size.batch, rows.steps), _Layer(size, rows))
        rows.reads = partial(self._read, trainer)
        if case == "topk_auxk":
            rows.half_dead(lambda: trainer.num_tokens_since_fired["point"], settings.dead_feature_threshold + 1)
        with tempfile.TemporaryDirectory() as folder:
            settings.save_dir = folder
            trainer.fit()

    @staticmethod
    def _read(trainer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """With the means of the weights that its schedule-free optimiser gives for evaluation."""
        coder = trainer.saes["point"]
        trainer.optimizers[0].eval()
        top = coder.encode(x)
        code = torch.zeros(len(x), coder.num_latents).scatter_(1, top.top_indices, top.top_acts)
        x_hat = coder.decode(top.top_acts, top.top_indices)
        trainer.optimizers[0].train()
        return x_hat, code


class _Tokens:
    """A data set of `steps` sequences, each of as many tokens as a batch has rows."""

    def __init__(self, length: int, steps: int) -> None:
        self.row, self.steps = {"input_ids": torch.zeros(length, dtype=torch.int64)}, steps

    def __len__(self) -> int:
        return self.steps

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
        rows.reads = partial(self._read, model)
        sae.train_sae(model, rows, criterion, torch.optim.Adam(model.parameters(), lr=5e-4 * rows.factor), nb_epochs=1)

    @staticmethod
    def _read(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """In evaluation mode, where a running threshold stands for the batch."""
        training = model.training
        model.eval()
        _, code, x_hat = model(x)
        model.train(training)
        return x_hat, code


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
