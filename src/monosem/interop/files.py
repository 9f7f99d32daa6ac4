"""Formats, and reading the files that others wrote: nothing is executed, and whatever is wrong is one clear error."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.base.errors import CheckpointError
from monosem.base.files import read_json, write_atomic
from monosem.base.registry import Registry
from monosem.core.model import SDL


class Tensors:
    """The tensors of one file (or several), taken one by one; what is not taken is not dropped but refused.

    Floating-point tensors come out as float32, or as float64 where a weight is stored so: half precisions are
    widened, which is exact.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = dict(values), where
        wide = any(isinstance(v, Tensor) and v.dtype == torch.float64 and v.ndim >= 2 for v in values.values())
        self.dtype = torch.float64 if wide else torch.float32

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def take(self, name: str, ndim: int) -> Tensor:
        """A tensor of this rank."""
        if name not in self.values:
            raise CheckpointError(f"{self.where}: {name} is missing, it holds {sorted(self.values)}")
        value = self.values.pop(name)
        if not isinstance(value, Tensor) or value.ndim != ndim:
            have = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{self.where}: {name} should have {ndim} axes, it is {have}")
        return value.to(self.dtype) if value.is_floating_point() and value.ndim else value

    def maybe(self, name: str, ndim: int) -> Tensor | None:
        """A tensor that need not be there."""
        return self.take(name, ndim) if name in self.values else None

    def ignore(self, *names: str) -> None:
        """Leave out what says nothing about the function (statistics of training)."""
        for name in names:
            self.values.pop(name, None)

    def done(self) -> None:
        """Nothing may be left over."""
        if self.values:
            raise CheckpointError(
                f"{self.where}: {sorted(self.values)} are unknown in this format; nothing is dropped silently"
            )


class TensorFiles:
    """Files of the same tensors, one per layer; a name with {} is filled with the layer's number."""

    def __init__(self, files: Sequence[Tensors]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def take(self, name: str, ndim: int) -> list[Tensor]:
        """This tensor of every layer."""
        return [t.take(name.format(i), ndim) for i, t in enumerate(self.files)]

    def maybe(self, name: str, ndim: int, where: str) -> list[Tensor] | None:
        """This tensor of every layer, if they have it. Raises: CheckpointError when some only have it."""
        values = [t.maybe(name.format(i), ndim) for i, t in enumerate(self.files)]
        present = [value for value in values if value is not None]
        if len(present) not in (0, len(values)):
            raise CheckpointError(f"{where}: {name.format('i')} stands in some layers only")
        return present or None

    def done(self) -> None:
        """Nothing may be left over in any."""
        for t in self.files:
            t.done()


class Candidate:
    """A path that may hold a model: a folder, or one file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise CheckpointError(f"{self.path} does not exist; give a folder or a file that holds a model")
        self.folder = self.path if self.path.is_dir() else self.path.parent

    def names(self, pattern: str) -> list[str]:
        """The candidate's files that match a pattern: the folder's, or the one file if it does; numbers in order."""
        names = [p.name for p in self.folder.glob(pattern) if p.is_file() and self.path in (self.folder, p)]
        return sorted(names, key=lambda name: (len(name), name))

    def only(self, pattern: str) -> str | None:
        """The one file that matches, if it is the only one."""
        names = self.names(pattern)
        return names[0] if len(names) == 1 else None

    def has(self, *names: str) -> bool:
        """Whether the folder holds these files (and the path, if a file, is one of them)."""
        whole = all((self.folder / name).is_file() for name in names)
        return whole and (self.path == self.folder or self.path.name in names)

    def json(self, name: str) -> dict[str, Any]:
        """A configuration; {} where there is none."""
        if not (self.folder / name).is_file():
            return {}
        value = read_json(self.folder / name)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.folder / name} holds {type(value).__name__}, not an object of settings")
        return value

    def keys(self, name: str) -> frozenset[str]:
        """The names of a file's tensors (and other entries), without reading the tensors where the format allows."""
        path = self.folder / name
        if path.suffix == ".safetensors":
            with _reading(path), safe_open(str(path), "pt") as file:
                return frozenset(file.keys())
        return frozenset(self._values(path))

    def tensors(self, *names: str) -> Tensors:
        """The tensors of some files together."""
        values: dict[str, Any] = {}
        for name in names:
            values |= self._values(self.folder / name)
        return Tensors(values, str(self.folder / names[0]))

    def _values(self, path: Path) -> dict[str, Any]:
        with _reading(path):
            if path.suffix == ".safetensors":
                return dict(load_file(str(path)))
            if path.suffix == ".npz":
                with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                    return {name: torch.from_numpy(np.array(file[name])) for name in file.files}
            value = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(value, dict):
            raise CheckpointError(f"{path} holds {type(value).__name__}, not a dictionary of tensors")
        return {str(key): item for key, item in value.items()}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a reader of files raises becomes one CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":
            why = "it is damaged, or holds more than tensors and plain values, which would need its code to be run"
        else:
            first = str(error).strip().partition("\n")[0][:200]
            why = f"it is truncated or altered ({type(error).__name__}: {first})"
        raise CheckpointError(f"{path} cannot be read: {why}") from None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write contiguous copies to a safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(path, lambda part: save_file(plain, str(part), {"format": "pt"}))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model read from a file, and what the file says beside it.

    `metadata` holds `model_name` and `hook_name` where known, and `source`: the format and its configuration
    verbatim. `notes` say what was folded or chosen; `dead` is the share of latents known to be dead.
    `unknown_scale` says why a factor on the inputs is needed that the file does not hold.
    """

    model: SDL
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dead: float | None = None
    unknown_scale: str = ""
    format: str = ""


@dataclass(frozen=True)
class Format:
    """One file format. `write` takes the model, the folder and metadata; None where we only read.

    `shape` says which files it is, for messages and documentation.
    """

    title: str
    shape: str
    recognise: Callable[[Candidate], bool]
    read: Callable[[Candidate], Loaded]
    write: Callable[[SDL, Path, dict[str, Any]], None] | None = None


FORMATS: Registry[Format] = Registry("format")
