"""The bench's documented defaults: a recipe per method and task, how long to train. Chosen on seeds 100 and 101.

The sweeps behind the numbers are in docs/defaults.md, with their records; reported runs use seeds from 0 on. Those of
lrb/hierarchy were not chosen by recovery but so that about as many latents fire as features: docs/theory/absorption.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from monosem.base.errors import UnknownNameError
from monosem.methods import METHODS
from monosem.train.config import FitConfig

PAPER_ROWS = ("relu_l1", "jumprelu", "topk", "batch_topk", "matryoshka", "topk_transcoder", "topk_crosscoder")
"""The seven methods of the paper's table 1, in its order."""

_MINI = {
    "relu_l1": "relu_l1(l1=1.0)",
    "p_anneal": "p_anneal(lp=0.8)",
    "gated": "gated(l1=1.0)",
    "jumprelu": "jumprelu(l0=0.5, theta=0.5, bandwidth=0.5)",
    "topk": "topk(k=4)",
    "batch_topk": "batch_topk(k=1.25)",
    "matryoshka": "matryoshka(k=1.25, fractions=(0.25, 0.5, 1.0))",
    "multi_topk": "multi_topk(k=2)",
    "binary": "binary(l0=0.1)",
}
_HARD = {
    "relu_l1": "relu_l1(l1=1.0)",
    "p_anneal": "p_anneal(lp=1.0)",
    "gated": "gated(l1=1.0)",
    "jumprelu": "jumprelu(l0=0.3, theta=0.1, bandwidth=1.0)",
    "topk": "topk(k=6)",
    "batch_topk": "batch_topk(k=4)",
    "matryoshka": "matryoshka(k=6)",
    "multi_topk": "multi_topk(k=6)",
    "binary": "binary(l0=0.1)",
}
_HIERARCHY = {
    "relu_l1": "relu_l1(l1=1.0)",
    "p_anneal": "p_anneal(lp=1.0)",
    "gated": "gated(l1=1.0)",
    "jumprelu": "jumprelu(l0=0.05, theta=0.3, bandwidth=0.5)",
    "topk": "topk(k=3)",
    "batch_topk": "batch_topk(k=2.5)",
    "matryoshka": "matryoshka(k=2.5)",
    "multi_topk": "multi_topk(k=3)",
    "binary": "binary(l0=0.1)",
}
_PAPER = {
    "relu_l1": "relu_l1(l1=1.0)",
    "p_anneal": "p_anneal(lp=0.8)",
    "gated": "gated(l1=1.0)",
    "jumprelu": "jumprelu(l0=0.5, theta=0.5, bandwidth=0.5)",
    "topk": "topk(k=32, aux=0.0)",
    "batch_topk": "batch_topk(k=10, aux=0.0)",
    "matryoshka": "matryoshka(k=16, aux=0.0)",
    "multi_topk": "multi_topk(k=16, aux=0.0)",
    "binary": "binary(l0=0.1)",
}

_RECIPES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"lrb/nano": _MINI, "lrb/mini": _MINI, "lrb/mini-hard": _HARD, "lrb/hierarchy": _HIERARCHY, "lrb/paper": _PAPER}
)
_FIT: Mapping[str, FitConfig] = MappingProxyType(
    {
        "lrb/nano": FitConfig(steps=300, batch_size=128, lr=1e-2),
        "lrb/mini": FitConfig(steps=2000, batch_size=256, lr=1e-2),
        "lrb/mini-hard": FitConfig(steps=1500, batch_size=256, lr=1e-2),
        "lrb/hierarchy": FitConfig(steps=500, batch_size=256, lr=1e-2),
        "lrb/paper": FitConfig(steps=1500, batch_size=1024, lr=3e-3, checkpoint_every=250),
    }
)
_SMALL = FitConfig(steps=1000, batch_size=128, lr=1e-2)
"""For small worlds, cells of the grid and worlds as text; two or three features are active, as in a hierarchy."""


def recipes(task: str) -> dict[str, str]:
    """Every row of the method table with this task's arguments, and the two paper rows of other pairings."""
    base = _RECIPES.get(task, _HIERARCHY)
    rows = {name: base.get(name, name) for name in METHODS}
    return rows | {
        f"topk_{form}": base["topk"].replace("topk", f"topk_{form}", 1) for form in ("transcoder", "crosscoder")
    }


def recipe(task: str, name: str) -> str:
    """A method's text for a task: a bare row name gets the task's arguments, anything with arguments stays.

    A bare name of another pairing takes the arguments of its SAE form.
    Example:
        >>> recipe("lrb/mini", "topk_crosscoder"), recipe("lrb/mini", "topk(k=9)")
        ('topk_crosscoder(k=4)', 'topk(k=9)')
    """
    if "(" in name:
        return name
    rows = recipes(task)
    if name in rows:
        return rows[name]
    for form in ("_skip_transcoder", "_transcoder", "_crosscoder", "_cross_layer"):
        base = name.removesuffix(form)
        if base != name and base in rows:
            return rows[base].replace(base, name, 1)
    METHODS[name]  # raises with a suggestion
    raise UnknownNameError(f"no recipe for {name!r} on {task}; give its arguments, like 'topk(k=8)'")


def fit_config(task: str, seed: int, steps: int | None = None) -> FitConfig:
    """How the bench trains on a task, with one seed and optionally other numbers of steps."""
    config = replace(_FIT.get(task, _SMALL), seed=seed)
    return config if steps is None else replace(config, steps=steps)
