"""Networks from a folder on this disk, or by name from a cache; downloaded only on request, and no code is run."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from monosem.base.errors import LONGEST, CheckpointError, DataError, check, shortened
from monosem.base.files import read_json
from monosem.base.machine import cache_folder, find_device


def named_networks() -> dict[str, Path]:
    """Networks by name: the folders of networks/ in the cache, where `python -m studies fetch NAME` puts them."""
    root = cache_folder() / "networks"
    return {path.name: path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while weights load, and no warning longer than a message of ours: it may quote the file."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging as bars

    shown, handlers = bars.is_progress_bar_enabled(), list(logging.getLogger("transformers").handlers)
    bars.disable_progress_bar()
    bar, gguf.tqdm = gguf.tqdm, lambda items, **_: items  # a bar of its own, which the switch does not reach
    for handler in handlers:
        handler.addFilter(_shorten)
    try:
        yield
    finally:
        gguf.tqdm = bar
        for handler in handlers:
            handler.removeFilter(_shorten)
        if shown:
            bars.enable_progress_bar()


def _shorten(record: logging.LogRecord) -> bool:
    record.msg, record.args = shortened(record.getMessage(), LONGEST), ()
    return True


DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Types of a network's weights; "auto" is that of its file."""


def _architectures(path: Path) -> list[str]:
    """The names of the classes in a network's config. Raises: CheckpointError for a config of another form."""
    config = read_json(path, finite=False)
    named = (config.get("architectures") or []) if isinstance(config, dict) else None
    fine = isinstance(named, list) and all(isinstance(name, str) for name in named)
    check(fine, f"{path} is no settings of a network with a list of architectures; restore it", CheckpointError)
    return list(named or [])


_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
"""What is downloaded of a repository: no pickled weights, no code."""


def open_network(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str = "auto",
    device_map: str | Mapping[str, Any] | None = None,
    download: bool = False,
) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer) of a transformers folder, or of a name.

    A name is that of a folder of networks/ in the cache, or "owner/name" of a repository in the hub's local cache;
    `download` fetches such a one when it is not there. A folder with one .gguf file is read from that. Models whose
    config names a language model have their head.
    `device`: where the network runs. `device_map`: split it over several devices instead, as accelerate does: "auto",
    "balanced", or a mapping from modules to devices; "tp": over the processes of torchrun, by transformers' own tensor
    parallelism. `dtype`: of the weights.
    Raises: DataError for what is neither a folder nor a name; CheckpointError for a folder that transformers refuses;
        ArgumentError for a device that is not there, or one beside a map.
    """
    check(dtype in DTYPES, f"dtype={dtype!r}; known: {', '.join(DTYPES)}")
    place = find_device(device)
    several = f"device={str(place)!r} and device_map={device_map!r} both say where the network lies; give one"
    check(device_map is None or place.type == "cpu", several)
    folder = _folder(str(name), download)
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    files, causal = _files(folder)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, **files}
    laid = {} if device_map is None else _laid(device_map)
    try:
        with quiet():
            kind = AutoModelForCausalLM if causal else AutoModel
            model = kind.from_pretrained(folder, dtype=dtype, **options, **laid)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # whatever a damaged folder makes transformers stumble over
        why = shortened(" ".join(str(error).split()), 300)
        raise CheckpointError(f"{folder} cannot be read by transformers ({type(error).__name__}: {why})") from None
    return (model if laid else model.to(place)).eval(), tokenizer


def _laid(device_map: str | Mapping[str, Any]) -> dict[str, Any]:
    """How a network is laid out, as transformers is told. Raises: ArgumentError for "tp" in a process alone."""
    if device_map != "tp":
        return {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}
    from transformers.distributed import DistributedConfig

    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    check(several, "device_map='tp' needs the processes of torchrun; open the network inside train.open_mesh (--mesh)")
    return {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=torch.distributed.get_world_size())}


def _files(folder: Path) -> tuple[dict[str, str], bool]:
    """(the .gguf file as an option, if there is one; whether the folder holds a language model)."""
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    check(len(ggufs) < 2, f"{folder} holds {len(ggufs)} .gguf files; leave one there", DataError)
    if ggufs:
        return {"gguf_file": ggufs[0]}, True
    check((folder / "config.json").is_file(), f"{folder} has no config.json; give a transformers folder", DataError)
    kinds = _architectures(folder / "config.json")
    return {}, any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds)


def _folder(name: str, download: bool) -> Path:
    """The folder that a path or a name means."""
    named = named_networks()
    if name in named or Path(name).is_dir():
        return named.get(name, Path(name))
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith((".", "/"))
    stored = _from_hub(name, download) if hub else None
    if stored is not None:
        return stored
    known = ", ".join(named) or "none in the cache"
    fetch = f"; open_network(..., download=True) fetches {name} from the hub" if hub else ""
    raise DataError(
        f"{name} is neither a folder nor a known network ({known}); check the path, or put its transformers folder "
        f"into {cache_folder() / 'networks'} (the repository's `python -m studies fetch NAME` does so for pinned "
        f"ones){fetch}"
    )


def _from_hub(name: str, download: bool) -> Path | None:
    """The newest snapshot of a repository in the hub's cache (fetched with `download`), or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=not download, allow_patterns=_HUB_FILES))
    except LocalEntryNotFoundError:
        check(not download, f"{name} is not in the hub's cache and cannot be reached; check the connection", DataError)
        return None
    except HfHubHTTPError as error:
        raise DataError(f"{name} cannot be fetched from the hub: {' '.join(str(error).split())[:200]}") from None
