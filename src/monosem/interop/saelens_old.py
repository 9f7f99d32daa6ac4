"""Settings of SAELens before version 6, brought to those of version 6."""

from typing import Any

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_DESCRIBING = (
    "model_name", "hook_name", "hook_layer", "hook_head_index", "model_class_name", "model_from_pretrained_kwargs",
    "prepend_bos", "dataset_path", "context_size", "neuronpedia_id", "sae_lens_training_version",
)  # fmt: skip


def is_old(config: dict[str, Any]) -> bool:
    """Whether no version stands in the settings, or one below 6."""
    inside = config.get("metadata")
    version = config.get("sae_lens_version") or (inside.get("sae_lens_version") if isinstance(inside, dict) else None)
    major = str(version or "0").partition(".")[0]
    return not major.isdigit() or int(major) < 6


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """The same model's settings in version 6: flat names to metadata, activation_fn topk to architecture topk.

    b_dec was subtracted unless the file says otherwise; a boolean normalize_activations meant the average norm.
    """
    new = {_RENAMED.get(name, name): value for name, value in config.items()}
    kwargs = new.pop("activation_fn_kwargs", None) or {}
    activation = new.pop("activation_fn", None) or "relu"
    new.setdefault("architecture", "standard")
    new.setdefault("apply_b_dec_to_input", True)
    if activation == "topk" and kwargs.get("k") is not None:
        new["architecture"], new["k"] = "topk", kwargs["k"]
    elif activation not in ("relu", "topk"):
        new["architecture"] = f"{new['architecture']} with {activation}"
    normalize = new.get("normalize_activations")
    if not isinstance(normalize, str):
        new["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    if "hook_z" in str(new.get("hook_name", "")):
        new.setdefault("reshape_activations", "hook_z")
    given = new.get("metadata") if isinstance(new.get("metadata"), dict) else {}
    new["metadata"] = {**{name: new[name] for name in _DESCRIBING if new.get(name) is not None}, **(given or {})}
    return new
