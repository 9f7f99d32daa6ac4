"""Networks from a folder on this disk, or by name from the cache; nothing is downloaded, no downloaded code is run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monosem.base.errors import CheckpointError, DataError, check
from monosem.base.files import read_json
from monosem.base.machine import cache_folder


def named_networks() -> dict[str, Path]:
    """Networks by name: the folders of networks/ in the cache, where `python -m studies fetch NAME` puts them."""
    root = cache_folder() / "networks"
    return {path.name: path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while weights load."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def open_network(name: str | Path) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer) of a transformers folder, or of a name in the cache.

    A folder with one .gguf file is read from that. Models whose config names a language model have their head.
    Raises: DataError for what is neither a folder nor a name; CheckpointError for a folder that transformers refuses.
    """
    named = named_networks()
    folder = named.get(str(name), Path(name))
    known = ", ".join(named) or "none in the cache"
    check(
        folder.is_dir(),
        f"{folder} is neither a folder nor a known network ({known}); check the path, or put its transformers folder "
        f"into {cache_folder() / 'networks'} (the repository's `python -m studies fetch NAME` does so for pinned ones)",
        DataError,
    )
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    check(len(ggufs) < 2, f"{folder} holds {len(ggufs)} .gguf files; leave one there", DataError)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if ggufs:
        options["gguf_file"] = ggufs[0]
    else:
        check((folder / "config.json").is_file(), f"{folder} has no config.json; give a transformers folder", DataError)
    kinds = [] if ggufs else read_json(folder / "config.json").get("architectures") or []
    causal = bool(ggufs) or any(str(kind).endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds)
    try:
        with quiet():
            model = (AutoModelForCausalLM if causal else AutoModel).from_pretrained(folder, dtype="auto", **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder} cannot be read by transformers ({type(error).__name__}: {why})") from None
    return model.eval(), tokenizer
