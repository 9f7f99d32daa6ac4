"""The little YAML that circuit-tracer's config.yaml needs: scalars, and lists of scalars, by name."""

import json
from pathlib import Path
from typing import Any

from monosem.base.errors import CheckpointError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read top-level `name: scalar` and lists of scalars; {} where there is no file.

    Raises: CheckpointError for anything deeper: it is not guessed at.
    """
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable text ({error}); restore it or delete it") from None
    config: dict[str, Any] = {}
    items: list[Any] | None = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#") or text == "---":
            continue
        if text.startswith("- ") and items is not None:
            items.append(_scalar(text[2:]))
            continue
        name, colon, value = text.partition(":")
        if line[0] in " \t" or not colon or (value and value[0] != " "):
            raise CheckpointError(f"{path}, line {number}: {text[:60]!r} is not `name: value`; restore it or delete it")
        value = value.strip()
        items = [] if not value else None
        config[_scalar(name)] = items if items is not None else _scalar(value)
    return config


def _scalar(text: str) -> Any:
    text = text.strip()
    if text[:1] not in ("'", '"'):
        text = text.partition(" #")[0].strip()
    if text in ("", "~", "null"):
        return None
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def write_yaml(config: dict[str, Any]) -> str:
    """Scalars and lists of scalars as YAML; strings are quoted, which every reader understands."""
    lines = []
    for name, value in config.items():
        if isinstance(value, list):
            lines += [f"{name}:", *(f"- {json.dumps(item)}" for item in value)]
        else:
            lines.append(f"{name}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"
