"""The catalogue names everything that a text can name, and what it prints can be written."""

import pytest

from monosem.base.calls import REQUIRED, Call
from monosem.core.activations import ACTIVATIONS
from monosem.losses.objective import TERMS
from monosem.methods import METHODS, method
from monosem.methods.catalogue import catalogue
from monosem.methods.parts import part_names

ENTRIES = [(kind, entry) for kind, entries in catalogue().items() for entry in entries]


def test_it_is_complete() -> None:
    names = {kind: {entry.name for entry in entries} for kind, entries in catalogue().items()}
    assert names["methods"] == set(METHODS)
    assert names["activations"] == set(ACTIVATIONS)
    assert names["terms"] == set(TERMS)
    assert set().union(
        *(names[k] for k in ("constraints", "encoders", "dictionaries", "optimisers", "settings"))
    ) == set(part_names())
    assert all(entry.summary and entry.text for _, entry in ENTRIES)


@pytest.mark.parametrize(("kind", "entry"), ENTRIES, ids=lambda value: getattr(value, "name", value))
def test_what_it_prints_can_be_written(kind: str, entry: object) -> None:
    """With 1 where a value is asked for."""
    named = {n: 1 if v is REQUIRED else v for n, v in entry.arguments.items()}  # type: ignore[attr-defined]
    if entry.name == "pre_bias":  # type: ignore[attr-defined]
        named = {"kind": "none"}
    if entry.name == "anchoring" or "schedule" in named:  # type: ignore[attr-defined]
        named = {n: v for n, v in named.items() if isinstance(v, int | float | str)}
    call = str(Call(entry.name, named=named))  # type: ignore[attr-defined]
    texts = {"methods": call, "activations": call, "terms": f"relu + {call}", "schedules": f"relu + l1({call})"}
    texts["pairings"] = f"relu @ {call}"
    assert method(texts.get(kind, f"relu | {call}")).spec


def test_it_prints_what_a_text_takes() -> None:
    texts = {entry.name: entry.text for kind, entry in ENTRIES if kind != "methods"}
    assert texts["l1"] == "l1(weight=1.0, norm='decoder'|'none'|'sources', on='code'|'gate')"
    assert texts["pre_bias"] == "pre_bias(kind='none'|'free'|'tied')"
    assert "schedule=warmup_decay(warmup=0.05" in texts["schedule_free_sign"]
    assert "ks=(128,)" in texts["multi_k"]
