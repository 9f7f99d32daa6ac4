"""The search for what the paper does not print: k, penalties, learning rate and steps, on a world of its own."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from monosem.bench.run import Job
from monosem.bench.world import Independent
from studies.bench.base import STUDIES, Entry, Scale, Study

SEARCH_SEED = 100
"""The world and the runs of the search; reported runs use seeds from 0 on."""

_TRIED = (
    ("topk(k=16, aux=0.0)", 3e-3, 600),
    ("topk(k=16, aux=0.0)", 1e-2, 600),
    ("topk(k=32, aux=0.0)", 3e-3, 600),
    ("topk(k=32, aux=0.0)", 1e-2, 600),
    ("topk(k=128, aux=0.0)", 3e-3, 600),
    ("topk(k=32, aux=0.0)", 3e-3, 1500),
    ("topk(k=64, aux=0.0)", 3e-3, 1500),
    ("topk(k=128, aux=0.0)", 3e-3, 1500),
    ("topk(k=128, aux=0.0)", 3e-3, 3000),
    ("topk(k=128, aux=0.0)", 1e-2, 600),
    ("batch_topk(k=10, aux=0.0)", 3e-3, 600),
    ("batch_topk(k=128, aux=0.0)", 3e-3, 600),
    ("batch_topk(k=128, aux=0.0)", 3e-3, 1500),
    ("matryoshka(k=128, aux=0.0)", 3e-3, 1500),
    ("matryoshka(k=16, aux=0.0)", 3e-3, 600),
    ("matryoshka(k=10, aux=0.0)", 1e-2, 500),
    ("jumprelu(l0=0.5, theta=0.5, bandwidth=0.5)", 3e-3, 600),
    ("jumprelu(l0=0.5, theta=0.5, bandwidth=0.5)", 1e-2, 500),
    ("relu_l1(l1=1.0)", 3e-3, 600),
    ("relu_l1(l1=1.0, warmup=0.5)", 3e-3, 600),
    ("relu_l1(l1=0.3)", 3e-3, 600),
    ("relu_l1(l1=1.0, warmup=0.5)", 1e-2, 600),
    ("relu_l1(l1=0.3)", 1e-2, 600),
    ("topk_transcoder(k=32, aux=0.0)", 3e-3, 600),
    ("topk_crosscoder(k=32, aux=0.0)", 3e-3, 600),
    ("topk_transcoder(k=128, aux=0.0)", 3e-3, 1500),
    ("topk_crosscoder(k=128, aux=0.0)", 3e-3, 1500),
    ("relu_l1(l1=0.3)", 1e-2, 1500),
)
"""(method, learning rate, steps) on the task as it is; a run that was not made is shown as such."""

_OTHER: tuple[tuple[str, float, int, Mapping[str, float]], ...] = (
    ("topk(k=128, aux=0.0)", 3e-3, 600, {"c_min": 1.0}),
    ("topk(k=128, aux=0.0)", 3e-3, 600, {"beta": 3.0}),
    ("topk(k=128, aux=0.0)", 3e-3, 600, {"batch": 256}),
    ("relu_l1(l1=0.3)", 1e-2, 600, {"c_min": 1.0}),
    ("relu_l1(l1=0.3)", 1e-2, 600, {"beta": 3.0}),
    ("jumprelu(l0=0.5, theta=0.001, bandwidth=0.001)", 3e-3, 600, {}),
    ("jumprelu(l0=0.5, theta=0.001, bandwidth=0.001)", 3e-3, 600, {"c_min": 1.0}),
    ("topk(k=128, aux=0.0)", 3e-3, 1500, {"batch": 256}),
    ("topk(k=128, aux=0.0)", 3e-3, 2400, {"batch": 256}),
    ("topk(k=64, aux=0.0)", 3e-3, 1500, {"batch": 256}),
    ("topk(k=32, aux=0.0)", 3e-3, 1500, {"batch": 256}),
)
"""The same with the least size c_min of a feature, the scale beta of the rest, or the batch changed."""


def _settings(scale: Scale) -> Iterator[Entry]:
    if scale.name != "paper":
        return
    law = scale.base.world.law
    assert isinstance(law, Independent)
    tried: list[tuple[str, float, int, Mapping[str, float]]] = [*((*one, {}) for one in _TRIED), *_OTHER]
    for text, lr, steps, other in tried:
        sizes = {name: value for name, value in other.items() if name != "batch"}
        task = replace(scale.base, world=replace(scale.base.world, law=replace(law, **sizes)))
        config = replace(scale.config, lr=lr, steps=steps, batch_size=int(other.get("batch", scale.config.batch_size)))
        changed = "".join(f", {name} = {value:g}" for name, value in other.items())
        yield Entry(
            text,
            f"lr {lr:g}, {steps} steps{changed}",
            Job(task, text, SEARCH_SEED, config, held_out=100, study="paper"),
        )


STUDIES.add("settings", Study("settings", 2, "Settings that the paper does not give", _settings, seeds=(SEARCH_SEED,)))
