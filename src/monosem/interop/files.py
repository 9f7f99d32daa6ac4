"""Formats, and reading the files that others wrote: nothing is executed, and whatever is wrong is one clear error."""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from monosem.base.errors import CheckpointError, check, shortened
from monosem.base.files import plain_file, read_json, write_atomic
from monosem.base.registry import Registry
from monosem.base.tensors import in_pieces, read_stored
from monosem.core.encoders import Affine, Encoder
from monosem.core.io import DTYPES
from monosem.core.model import SDL

LARGEST_CONFIG = 1 << 24
"""Bytes of a configuration."""
UNPACKED, RATIO = 1 << 28, 100
"""Bytes to which an archive may expand, and how many times its size above that."""

Dtype = torch.dtype | Literal["file"] | None


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor in a file, known by its header; `open` maps it anew, so that what was read is not kept twice."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    open: Callable[[], Tensor]
    mapped: bool = True

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def load(self, dtype: torch.dtype, turned: bool = False) -> Tensor:
        """The numbers in memory of their own, or (`turned`) the transpose of a matrix; read piece by piece."""
        if not self.mapped:
            whole = self.open().to(dtype)
            return whole.T.contiguous() if turned else whole
        return in_pieces(self.open, self.shape, self.dtype, dtype, turned)


class Tensors:
    """The tensors of one file (or several), taken one by one; what is not taken is not dropped but refused.

    Floating-point tensors come out as `dtype`; None: float32, or float64 where a weight is stored so (half precisions
    are widened, which is exact); "file": the type of the file's largest tensor. With `outline` matrices have shapes
    only (on the device "meta"). Numbers that are not finite are refused, unless `unchecked`.
    """

    def __init__(
        self, values: Mapping[str, Any], where: str, dtype: Dtype = None, outline: bool = False, unchecked: bool = False
    ) -> None:
        self.values, self.where, self.outline, self.unchecked = dict(values), where, outline, unchecked
        self.factors: Mapping[str, float] = {}
        self._asked = dtype
        stored = [v for v in values.values() if isinstance(v, Entry) and v.dtype in DTYPES.values() and v.ndim >= 2]
        wide = any(v.dtype == torch.float64 for v in stored)
        self.dtype = torch.float64 if wide else torch.float32
        if isinstance(dtype, torch.dtype):
            self.dtype = dtype
        elif dtype == "file" and stored:
            self.dtype = max(stored, key=lambda v: math.prod(v.shape)).dtype

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def others(self, values: Mapping[str, Any], factors: Mapping[str, float] | None = None) -> "Tensors":
        """Other tensors of the same file, or under other names, read in the same way; some times a factor."""
        others = Tensors(values, self.where, self._asked, self.outline, self.unchecked)
        others.factors = factors or {}
        return others

    def _pop(self, name: str, ndim: int) -> Entry:
        if name not in self.values:
            raise CheckpointError(f"{self.where}: {name} is missing, it holds {self._names()}")
        value = self.values.pop(name)
        if not isinstance(value, Entry) or value.ndim != ndim:
            have = value.shape if isinstance(value, Entry) else type(value).__name__
            raise CheckpointError(f"{self.where}: {name} should have {ndim} axes, it is {have}")
        return value

    def _names(self) -> str:
        return shortened(str(sorted(self.values)), 300)

    def take(self, name: str, ndim: int, turned: bool = False, finite: bool = True, real: bool = False) -> Tensor:
        """A floating-point tensor of this rank, or (`turned`) its transpose, stored so.

        `finite` False: NaN has a meaning here. `real`: its numbers are needed even for an outline.
        """
        entry = self._pop(name, ndim)
        known = entry.dtype in DTYPES.values()
        check(known, f"{self.where}: {name} is {entry.dtype}, not floating-point of 16 bits or more", CheckpointError)
        if self.outline and ndim >= 2 and not real:
            return torch.empty(entry.shape[::-1] if turned else entry.shape, dtype=self.dtype, device="meta")
        value = entry.load(self.dtype if ndim else entry.dtype, turned)
        value = value * self.factors[name] if name in self.factors else value
        if finite and not self.unchecked:
            self._check_finite(name, value)
        return value

    def _check_finite(self, name: str, value: Tensor) -> None:
        """A threshold may be infinite: such a latent never fires."""
        if value.numel():
            low, high = (float(bound) for bound in value.reshape(-1).aminmax())
            fine = math.isfinite(low) and (math.isfinite(high) or ("threshold" in name and high == math.inf))
            text = f"{self.where}: {name} holds NaN or infinity; export it again (unchecked=True reads it all the same)"
            check(fine, text, CheckpointError)

    def whole(self, name: str) -> int:
        """A whole number."""
        entry = self._pop(name, 0)
        value = entry.open()
        fine = not (value.is_complex() or value.dtype == torch.bool) and float(value) == int(value)
        check(fine, f"{self.where}: {name} is {value.dtype}, not a whole number", CheckpointError)
        return int(value)

    def wholes(self, name: str) -> list[int]:
        """A list of whole numbers."""
        value = self._pop(name, 1).open()
        kinds = (torch.int64, torch.int32, torch.int16, torch.uint8)
        check(value.dtype in kinds, f"{self.where}: {name} is {value.dtype}, not whole numbers", CheckpointError)
        numbers: list[int] = value.tolist()
        return numbers

    def maybe(self, name: str, ndim: int, finite: bool = True, real: bool = False) -> Tensor | None:
        """A tensor that need not be there."""
        return self.take(name, ndim, finite=finite, real=real) if name in self.values else None

    def ignore(self, *names: str) -> None:
        """Leave out what says nothing about the function (statistics of training)."""
        for name in names:
            self.values.pop(name, None)

    def done(self) -> None:
        """Nothing may be left over."""
        if self.values:
            raise CheckpointError(
                f"{self.where}: {self._names()} are unknown in this format; nothing is dropped silently"
            )


class TensorFiles:
    """Files of the same tensors, one per layer; a name with {} is filled with the layer's number."""

    def __init__(self, files: Sequence[Tensors]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def take(self, name: str, ndim: int, turned: bool = False) -> list[Tensor]:
        """This tensor of every layer."""
        return [t.take(name.format(i), ndim, turned) for i, t in enumerate(self.files)]

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
    """A path that may hold a model: a folder, or one file; and how its tensors are read, see `Tensors`."""

    def __init__(self, path: str | Path, dtype: Dtype = None, outline: bool = False, unchecked: bool = False) -> None:
        self.path, self.dtype, self.outline, self.unchecked = Path(path), dtype, outline, unchecked
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
        whole = all((self.folder / name).is_file() or self._index(name).is_file() for name in names)
        return whole and (self.path == self.folder or self.path.name in names)

    def json(self, name: str) -> dict[str, Any]:
        """A configuration; {} where there is none."""
        if not (self.folder / name).is_file():
            return {}
        value = read_json(self.folder / name, LARGEST_CONFIG, finite=False)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.folder / name} holds {type(value).__name__}, not an object of settings")
        return value

    def keys(self, name: str) -> frozenset[str]:
        """The names of a file's tensors (and other entries)."""
        return frozenset(self._values(self.folder / name))

    def tensors(self, *names: str) -> Tensors:
        """The tensors of some files together."""
        values: dict[str, Any] = {}
        for name in names:
            values |= self._values(self.folder / name)
        return Tensors(values, str(self.folder / names[0]), self.dtype, self.outline, self.unchecked)

    def _index(self, name: str) -> Path:
        """What says where the tensors of a file lie that was cut into several."""
        return self.folder / f"{name}.index.json"

    def _values(self, path: Path) -> dict[str, Any]:
        if not path.is_file() and self._index(path.name).is_file():
            return self._cut(self._index(path.name))
        with _reading(path):
            plain_file(path)
            return {".safetensors": _safetensors, ".npz": _npz}.get(path.suffix, _pt)(path)

    def _cut(self, index: Path) -> dict[str, Any]:
        """The tensors of an index, {"weight_map": {tensor: file beside it}}, and of its files; both must agree."""
        said = self.json(index.name).get("weight_map")
        files = {str(name): str(file) for name, file in said.items()} if isinstance(said, dict) else {}
        plain = bool(files) and all(file == Path(file).name and file != index.name for file in files.values())
        check(plain, f"{index} has no weight_map of tensors and the files beside it; restore it", CheckpointError)
        inside = {file: self._values(self.folder / file) for file in sorted(set(files.values()))}
        differ = {(name, file) for file, values in inside.items() for name in values} ^ set(files.items())
        text = f"{index} and its files disagree on {shortened(str(sorted(name for name, _ in differ)))}; restore them"
        check(not differ, text, CheckpointError)
        return {name: inside[file][name] for name, file in files.items()}


def _safetensors(path: Path) -> dict[str, Any]:
    return {name: Entry(*stored) for name, stored in read_stored(path).items()}


def _npz(path: Path) -> dict[str, Any]:
    _check_archive(path)

    def opener(name: str) -> Callable[[], Tensor]:
        def get() -> Tensor:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return torch.from_numpy(np.ascontiguousarray(file[name]))

        return get

    entries = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, kind = header(file)
            check(not kind.hasobject, f"{path}: {member} holds Python objects, not numbers", CheckpointError)
            name = member.removesuffix(".npy")
            entries[name] = Entry(shape, torch.from_numpy(np.empty(0, kind)).dtype, opener(name), mapped=False)
    return entries


def _pt(path: Path) -> dict[str, Any]:
    check(zipfile.is_zipfile(path), f"{path} is no archive as torch.save writes; save it anew", CheckpointError)
    _check_archive(path)

    def root() -> Any:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    value = root()
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, not a dictionary of tensors")
    return {str(key): _entries(item, root, (key,)) for key, item in value.items()}


def _entries(value: Any, root: Callable[[], Any], place: tuple[Any, ...]) -> Any:
    """The tensors of a nested dictionary as entries; other values as they are."""
    if isinstance(value, dict):
        return {str(key): _entries(item, root, (*place, key)) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    size = value.numel() * value.dtype.itemsize
    text = f"{place[-1]} claims {size:,} bytes, more than the file holds"
    check(size <= value.untyped_storage().nbytes(), text, CheckpointError)

    def get() -> Tensor:
        inner = root()
        for key in place:
            inner = inner[key]
        tensor: Tensor = inner.detach()
        return tensor

    return Entry(tuple(value.shape), value.dtype, get)


def _check_archive(path: Path) -> None:
    """Raises: CheckpointError for an archive that expands to far more than its size."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
    bomb = total > UNPACKED and total > RATIO * path.stat().st_size
    check(
        not bomb, f"{path} expands to {total:,} bytes, over {RATIO} times its size; unpack it yourself", CheckpointError
    )


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
            first = shortened(str(error).strip().partition("\n")[0])
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

    `shape` says which files it is, for messages and documentation. `encoders`: the kinds that it can say; None: all.
    """

    title: str
    shape: str
    recognise: Callable[[Candidate], bool]
    read: Callable[[Candidate], Loaded]
    write: Callable[[SDL, Path, dict[str, Any]], None] | None = None
    encoders: tuple[type[Encoder], ...] | None = (Affine,)


FORMATS: Registry[Format] = Registry("format")
