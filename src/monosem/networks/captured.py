"""Activations that an inference engine wrote, read as if the network were here: harvested, streamed, trained on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.base.errors import DataError, check
from monosem.base.tensors import read_stored
from monosem.data.batches import Batch, TokenFilter


class Captured(nn.Module):
    """Stands for a network: a batch is what was captured, and passes the module of each layer as its output.

    Shapes: x [batch, time, layers, width].
    """

    def __init__(self, modules: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(modules)
        for name in modules:
            parent: nn.Module = self
            *folders, leaf = name.split(".")
            for part in folders:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, nn.Identity())
        self.eval()

    def forward(self, x: Float[Tensor, "batch time layers width"]) -> None:
        """Every layer's part passes its module."""
        for number, name in enumerate(self.names):
            self.get_submodule(name)(x[:, :, number])


class _Files:
    """A batch per file, read as it is asked for; gone through as often as wanted."""

    def __init__(self, files: Sequence[Path], layers: int, keep: TokenFilter) -> None:
        self.files, self.layers, self.keep = files, layers, keep

    def __iter__(self) -> Iterator[Batch]:
        for number, path in enumerate(self.files):
            stored = read_stored(path)
            absent = {"hidden_states", "token_ids"} - set(stored)
            check(not absent, f"{path} holds no {' and no '.join(sorted(absent))}; give vLLM's files", DataError)
            x, token = stored["hidden_states"].get(), stored["token_ids"].get()
            fits = x.ndim == 3 and x.is_floating_point() and tuple(x.shape[:2]) == (token.numel(), self.layers)
            shapes = f"hidden_states {tuple(x.shape)} and token_ids {tuple(token.shape)}"
            wanted = f"[tokens, {self.layers}, width] and [tokens]"
            check(fits and token.ndim == 1, f"{path} has {shapes}, not {wanted}; name the layers it has", DataError)
            token = token.to(torch.int64)[None]
            keep = self.keep(token, torch.ones_like(token, dtype=torch.bool))
            place = torch.arange(token.shape[1])[None]
            yield Batch(x[None], torch.tensor([number]), keep, token, place)


def engine_captures(
    folder: str | Path, layers: Sequence[int], *, at: str = "model.layers.{}", keep: TokenFilter | None = None
) -> tuple[Captured, _Files]:
    """(a module, its batches) of hidden states that vLLM wrote, for `harvest`, `LiveSource` and what else takes both.

    vLLM's `extract_hidden_states` with a connector (ExampleHiddenStatesConnector) writes a .safetensors file a request,
    with `hidden_states` [tokens, layers, width] and `token_ids` [tokens]. `layers` are the numbers that the engine was
    given (eagle_aux_hidden_state_layer_ids), in their order: number i is what leaves the i-th layer counted from 1,
    which is the site "model.layers.{i - 1}:out" here; `at` is the module's name in other networks. A file is a
    document, in the order of file names. `keep` filters tokens, as in `harvest`. Only the format is read: no engine is
    run here.
    Raises: DataError for a folder without such files, or a file of another form, when it is read.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> from monosem.networks import harvest
        >>> folder = Path(tempfile.mkdtemp())
        >>> tensors = {"hidden_states": torch.randn(5, 2, 8), "token_ids": torch.arange(5)}
        >>> save_file(tensors, folder / "request.safetensors")
        >>> module, batches = engine_captures(folder, [3, 6])
        >>> store = harvest(module, "model.layers.*:out", batches, folder / "acts")
        >>> store.sites, store.rows
        (('model.layers.2:out', 'model.layers.5:out'), 5)
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    check(bool(files), f"{folder} holds no .safetensors files; give the connector's shared_storage_path", DataError)
    right = len(set(layers)) == len(layers) > 0 and min(layers) >= 1
    check(right, f"layers={list(layers)}; name each of the engine's layers once, counted from 1")
    module = Captured([at.format(number - 1) for number in layers])
    return module, _Files(files, len(layers), keep or TokenFilter())
