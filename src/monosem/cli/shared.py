"""Options that several commands share: rows, labels, a network, its texts; and how each is opened."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.cli.console import check_device, err, fail
from monosem.cli.options import opt

if TYPE_CHECKING:
    from monosem.base.group import Axis, Group
    from monosem.core.pairs import Pairing
    from monosem.data.source import FileSource
    from monosem.interop import Loaded

_data = partial(opt, panel="Data")
_network = partial(opt, panel="Network")
_text = partial(opt, panel="Text")

Dictionary = Annotated[
    Path,
    typer.Argument(metavar="DICTIONARY", help="Trained dictionary: a folder or file of any known format."),
]
Threads = Annotated[int | None, opt("Number of torch threads. [default: torch's own]", more=True)]


@dataclass(frozen=True)
class RowsOptions:
    """Rows of a store or of tables."""

    data: Annotated[Path, _data("Rows x_p: a store of `monosem harvest`, or a .npy, .safetensors or .parquet file.")]
    target: Annotated[Path | None, _data("File of rows x_r of the same inputs, for a transcoder.")] = None
    read: Annotated[str | None, _data("Sites of the store to read, where it leaves a choice.")] = None
    write: Annotated[str | None, _data("Sites of the store to write, for a transcoder.")] = None
    key: Annotated[
        str | None, _data("Tensor of the .safetensors file --data, or columns of a .parquet one.", more=True)
    ] = None
    target_key: Annotated[
        str | None, _data("Tensor of the .safetensors file --target, or columns of a .parquet one.", more=True)
    ] = None

    def __post_init__(self) -> None:
        need("--target-key", self.target_key, "--target", self.target)

    def open(self, pairing: "Pairing | None" = None, **more: Any) -> "FileSource":
        """The rows, read through and checked."""
        from monosem.data.source import open_rows

        given = {one.name: getattr(self, one.name) for one in fields(RowsOptions) if one.name not in ("data", "target")}
        with err().status(f"reading {self.data}"):
            return open_rows(self.data, self.target, pairing=pairing, **given, **more)

    def written(self) -> str:
        """These options as a command line has them."""
        given = [(one.name.replace("_", "-"), getattr(self, one.name)) for one in fields(RowsOptions)]
        return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given if value is not None)


@dataclass(frozen=True)
class DeviceOptions:
    """Where a network and its dictionary run, and in which type the network does."""

    device: Annotated[str, _network('Device that runs network and dictionary, such as "cuda".', more=True)] = "cpu"
    dtype: Annotated[
        str, _network("Type of the network's weights: auto (its file's), float32, bfloat16 or float16.", more=True)
    ] = "auto"
    device_map: Annotated[
        str | None,
        _network(
            "Split the network over all devices, auto or balanced, or, with --mesh, over the processes: tp.", more=True
        ),
    ] = None
    download: Annotated[
        bool, _network("Fetch OWNER/NAME from the hub where its cache has none.", "--download", more=True)
    ] = False

    def __post_init__(self) -> None:
        check_device(self.device)

    def read(self, name: str) -> tuple[Any, Any]:
        """(the network in evaluation mode, its tokenizer) of a folder or a name."""
        from monosem.networks.models import open_network

        given = {one.name: getattr(self, one.name) for one in fields(DeviceOptions)}
        with err().status("reading the network"):
            return open_network(name, **given)


@dataclass(frozen=True)
class NetworkOptions(DeviceOptions):
    """A network of transformers."""

    network: Annotated[
        str | None,
        _network("Language model: a transformers folder, or a name in the cache or the hub's. [default: the store's]"),
    ] = None

    def open(self, name: str | None = None) -> tuple[Any, Any]:
        """(the network in evaluation mode, its tokenizer); `name` where it is not the option's."""
        return self.read(name or self.network or "")


@dataclass(frozen=True)
class DictionaryOptions:
    """A dictionary without its network: where it computes, and in which type."""

    dictionary: Dictionary
    device: Annotated[str, opt('Device that the dictionary computes on, such as "cuda".', more=True)] = "cpu"
    dtype: Annotated[
        str, opt("Type of its weights: auto (its file's), float64, float32, bfloat16 or float16.", more=True)
    ] = "auto"

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.dtype not in (known := ("auto", "float64", "float32", "bfloat16", "float16")):
            fail(f"--dtype {self.dtype} is no type of weights; choose {', '.join(known)}")

    def read(self) -> "Loaded":
        """The dictionary there, and what its file says beside it."""
        return read_dictionary(self.dictionary, self.device, self.dtype)


def read_dictionary(path: Path, device: str, dtype: str = "auto") -> "Loaded":
    """A dictionary on a device, and what its file says beside it. Raises: ArgumentError for a device that is not there,
    before anything is read."""
    import torch

    from monosem.base.machine import find_device
    from monosem.interop import read

    place = find_device(device)
    loaded = read(path, dtype=None if dtype == "auto" else getattr(torch, dtype))
    loaded.model.to(place)
    return loaded


@dataclass(frozen=True)
class TextOptions:
    """Texts to run through a network."""

    each: Annotated[str, _text("What one document of a .txt file is: line, paragraph or file.", more=True)] = "line"
    text_key: Annotated[str, _text("Field of .jsonl, or column of .parquet, that holds the text.", more=True)] = "text"
    length: Annotated[int, _text("Most tokens of one window.", more=True)] = 256


@contextmanager
def shared(mesh: str | None, device: str, what: "Axis" = "latents") -> "Iterator[Group]":
    """The processes of torchrun that share a run's latents, or a harvest's rows; this one alone without a mesh."""
    from monosem.base.group import ALONE

    if mesh is None:
        yield ALONE
        return
    from monosem.train.mesh import open_mesh

    with open_mesh(mesh, device, what) as group:
        yield group


def check_length(network: Any, length: int) -> None:
    """Refuse windows of more tokens than a network has positions."""
    most = getattr(network.config, "max_position_embeddings", length)
    if length > most:
        fail(f"--length {length} is more than the network's {most} positions; lower it")


def need(option: str, value: object, other: str, given: object) -> None:
    """Refuse an option that says something of another one, which is not there."""
    if value is not None and given is None:
        fail(f"{option} {value} belongs to {other}, which is not given; leave it out, or give {other}")


def train_command(rows: RowsOptions, width: int, out: Path, *more: str, start: str = "") -> str:
    """The command that trains TopK with 8 latents a dimension on rows, ready to run; `start` ends the method's text."""
    name = "topk" if rows.target is None and rows.write is None else "topk_transcoder"
    method = f'--method "{name}(k={max(1, min(32, width // 8))}){start}"'
    return " ".join(["monosem train", rows.written(), method, f"--n-q {8 * width}", *more, quoted("--out", out)])


def quoted(*words: object) -> str:
    """Words of a command line, quoted where a shell needs it."""
    return " ".join(shlex.quote(str(word)) for word in words)
