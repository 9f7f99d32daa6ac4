"""Networks from a folder on this disk, or by the name of an asset; nothing is downloaded, no downloaded code is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from monosem.base.errors import CheckpointError, DataError, check
from monosem.base.files import read_json
from monosem.base.registry import Registry
from monosem.representations import assets_models

__all__ = ["NETWORKS", "open_network"]

NETWORKS: Registry[Callable[[], tuple[Any, Any]]] = Registry("network")
"""Networks by name, each a function that gives (model, tokenizer)."""
NETWORKS.add("stories15m", assets_models.stories15m)
NETWORKS.add("smollm2", assets_models.smollm2)
NETWORKS.add("minilm", assets_models.minilm)
NETWORKS.add("minilm_finetuned", assets_models.minilm_finetuned)


def open_network(name: str | Path) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer) of a transformers folder, or of a name in NETWORKS.

    A folder with one .gguf file is read from that. Models whose config names a language model have their head.
    Raises: DataError for what is neither a folder nor a name; CheckpointError for a folder that transformers refuses.
    """
    if str(name) in NETWORKS:
        return NETWORKS[str(name)]()
    folder = Path(name)
    known = ", ".join(NETWORKS)
    check(folder.is_dir(), f"{folder} is neither a folder nor a known network ({known}); check the path", DataError)
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
        with assets_models.quiet():
            model = (AutoModelForCausalLM if causal else AutoModel).from_pretrained(folder, dtype="auto", **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder} cannot be read by transformers ({type(error).__name__}: {why})") from None
    return model.eval(), tokenizer
