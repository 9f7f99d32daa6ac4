"""fit_together: rows, logs and models as alone; what fails is named; what cannot share a stack is refused."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.anchoring.term import Anchoring
from monosem.base.errors import ArgumentError, DataError, MonosemError, RefusedError, ShapeError
from monosem.base.schedule import Ramp
from monosem.bench.tasks import TaskSource, task
from monosem.core.constraints import UnitNorm
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.losses.fidelity import Reconstruction
from monosem.losses.objective import State, Step, Term
from monosem.methods import METHODS, Method, method, with_anchoring
from monosem.train import stack_fit
from monosem.train.config import FitConfig
from monosem.train.loop import fit, start_run, train_step
from monosem.train.stack import Stack
from monosem.train.stack_fit import MOST, Member, fit_together, worth_stacking
from monosem.train.state import load_run, save_run
from monosem.train.update import Update
from tests.train.scenes import anchors, rows

CONFIG = FitConfig(30, 32, 1e-2, log_every=3, dead_window=60, threads=1)
SMALL = FitConfig(4, 8, 1e-2, log_every=1, threads=1)


class _Watched(TaskSource):
    """A source that keeps the rows it gave."""

    def __init__(self, seed: int) -> None:
        super().__init__(task("lrb/nano", seed=seed))
        self.given: list[Tensor] = []

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        pair = super().take(index)
        self.given.append(pair[0])
        return pair


def _flat(model: SDL) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", METHODS)
def test_a_stack_is_its_runs(name: str) -> None:
    """Worlds and seeds differ. Rounding grows: sums of other order move a number by 1e-7, 30 steps by some 1e-5.

    BatchTopK may then swap the cells on either side of its threshold, which moves single weights by 1e-3.
    """
    text = method(name, **({"k": 3} if "k" in METHODS[name].defaults else {})).spec
    far = 1e-2 if name in ("batch_topk", "matryoshka") else 1e-4
    together, alone = [_Watched(seed) for seed in range(3)], [_Watched(seed) for seed in range(3)]
    found = fit_together([Member(text, source, seed) for seed, source in enumerate(together)], 48, CONFIG)
    for seed, (source, other, result) in enumerate(zip(together, alone, found, strict=True)):
        assert result is not None
        wanted = fit(text, other, 48, replace(CONFIG, seed=seed))
        assert all(map(torch.equal, source.given, other.given)), "the same rows, to the bit"
        assert len(source.given) == CONFIG.steps + 1
        assert result.identity == wanted.identity
        assert not result.model.training
        assert [set(entry) for entry in result.log] == [set(entry) for entry in wanted.log]
        for here, there in zip(result.log, wanted.log, strict=True):
            assert here == pytest.approx(there, rel=far / 10, abs=far / 10)
        assert (_flat(result.model) - _flat(wanted.model)).abs().max() < far
    assert len({w.untyped_storage().data_ptr() for r in found if r for w in r.model.encoder.weights}) == 3


def _alone(members: list[Member], config: FitConfig, n_q: int) -> list[Tensor]:
    return [
        _flat(fit(m.method, m.source, n_q, replace(config, seed=m.seed), m.anchors).model) for m in members
    ]  # fmt: skip


@pytest.mark.parametrize("hard", [False, True])
def test_weights_of_terms_and_anchors_may_differ(hard: bool) -> None:
    source = TaskSource(task("lrb/nano"))
    plans = [Anchoring(weight=weight, hard=hard) for weight in (0.1, Ramp(1.0, 0.0), 3.0)]
    members = [
        Member(with_anchoring(method("relu_l1", l1=l1), plan), source, 7, anchors(2 + hard, 16, 16))
        for l1, plan in zip((0.1, 0.5, 2.0), plans, strict=True)
    ]
    members[2] = replace(members[2], anchors=replace(anchors(2 + hard, 16, 16), p=rows(16, 2 + hard, seed=4)))
    found = [_flat(r.model) for r in fit_together(members, 24, CONFIG) if r]
    for here, there in zip(found, _alone(members, CONFIG, 24), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)
    assert (found[0] - found[2]).abs().max() > 0.1, "they did differ"


def test_dead_latents_are_drawn_anew_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every step each run may draw, by its own seed, from its own source; what it draws test_stack compares."""
    heard: list[tuple[int, int, object]] = []
    monkeypatch.setattr(
        stack_fit, "resample", lambda run, made, own, source: heard.append((run.step, own.seed, source))
    )
    members = [Member("topk(k=2)", TensorSource(rows(40, 6, seed=seed)), seed) for seed in range(2)]
    fit_together(members, 12, SMALL)
    assert heard == [(step + 1, m.seed, m.source) for step in range(SMALL.steps) for m in members]


def test_a_run_of_one_is_a_stack_too() -> None:
    members = [Member("topk(k=2)", TensorSource(rows(40, 6)), 3)]
    (result,) = fit_together(members, 12, SMALL)
    assert result is not None
    torch.testing.assert_close(_flat(result.model), _alone(members, SMALL, 12)[0], rtol=1e-4, atol=1e-5)


# What fails ---------------------------------------------------------------------------------------------


def _spoilt() -> list[Member]:
    bad = rows(40, 6, seed=2)
    bad[11] = float("nan")
    made = [TensorSource(rows(40, 6)), TensorSource(bad), TensorSource(rows(40, 6, seed=1))]
    return [Member("topk(k=2)", source, seed) for seed, source in enumerate(made)]


def test_a_run_that_is_not_finite_is_named() -> None:
    config = replace(SMALL, steps=10)
    with pytest.raises(DataError, match=r"run 1 of the stack: x_p holds NaN or infinity in 1 of the 8 rows of step"):
        fit_together(_spoilt(), 12, config)


def test_the_others_go_on_where_somebody_listens() -> None:
    config, heard = replace(SMALL, steps=10), list[tuple[int, str]]()
    found = fit_together(_spoilt(), 12, config, on_error=lambda number, why: heard.append((number, str(why))))
    assert [result is None for result in found] == [False, True, False]
    assert [number for number, _ in heard] == [1]
    wanted = [fit("topk(k=2)", m.source, 12, replace(config, seed=m.seed)) for m in _spoilt() if m.seed != 1]
    for result, other in zip((found[0], found[2]), wanted, strict=True):
        assert result is not None
        assert len(result.log) == 10
        torch.testing.assert_close(_flat(result.model), _flat(other.model), rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class _Branching(Term):
    """A term that looks at a number."""

    def apply(self, step: Step, state: State) -> Tensor:
        value = step.residual.pow(2).sum()
        return value if float(value.detach()) > 0 else 0 * value


def _pair(**second: Any) -> list[Member]:
    first = Member("topk(k=2)", TensorSource(rows(40, 6)))
    return [first, replace(first, **second)]


def _of(**changes: Any) -> Method:
    return replace(method("topk(k=2)"), **changes)


REFUSED = {
    "widths": (_pair(source=TensorSource(rows(40, 7))), {}, ShapeError, r"run 1 .* its sizes are .*7.*, not .*6"),
    "anchors": (_pair(anchors=anchors(2, 6, 6)), {}, ShapeError, r"run 1 .* its anchors are \[2\], not \[\]"),
    "activation": (_pair(method="topk(k=3)"), {}, RefusedError, r"its activation are? TopK\(k=3.*TopK\(k=2"),
    "terms": (_pair(method="topk(k=2, aux=0)"), {}, RefusedError, r"its terms are .*Reconstruction.*AuxK.*alone"),
    "plan": (_pair(method=_of(constraints=())), {}, RefusedError, r"its constraints are \(\), not \(UnitNorm"),
    "bf16": (_pair(), {"dense": "bf16"}, ArgumentError, r"full precision, but \['dense'\] is 'bf16'.*alone"),
    "kept": (_pair(), {"checkpoint_every": 2}, ArgumentError, r"checkpoint_every=2, but a stack leaves no checkp"),
    "none": ([], {}, ArgumentError, "no runs to stack"),
    "bad": (_pair(method="topk(k=20)"), {}, ArgumentError, r"run 1: k=20 is larger than n_q=12"),
    "branch": (
        [Member(_of(terms=(_Branching(),), spec="mine"), TensorSource(rows(40, 6)))] * 2,
        {},
        RefusedError,
        r"mine cannot be stacked \(.*vmap.*\); train it alone, with fit",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_share_a_stack_is_refused(name: str) -> None:
    members, changes, error, message = REFUSED[name]
    with pytest.raises(MonosemError, match=f"(?s){message}") as caught:
        fit_together(members, 12, replace(SMALL, **changes))
    assert type(caught.value) is error


# Runs of a stack are ordinary runs ------------------------------------------------------------------------


def test_a_run_of_a_stack_can_be_saved_and_go_on_alone(tmp_path: Path) -> None:
    """Its checkpoint holds weights, moments, term states and dead counts: the next step alone is the stack's."""
    made = _of(terms=(Reconstruction(), *method("topk").terms[1:]), constraints=(UnitNorm(),))
    source, config = TensorSource(rows(40, 6)), replace(SMALL, steps=9, dead_window=9)
    runs = [start_run(made, source, 12, replace(config, seed=seed)) for seed in range(2)]
    for run in runs:
        run.model.train()
    stack = Stack(runs, [made] * 2, config)
    for number in range(5):
        stack.step(*(torch.stack([rows(8, 6, seed=10 * number + i) for i in range(2)]),) * 2)
    save_run(runs[1], tmp_path / "one.safetensors")
    alone = start_run(made, source, 12, replace(config, seed=1))
    load_run(alone, tmp_path / "one.safetensors")
    alone.model.train()
    assert alone.step == runs[1].step == 5
    x = torch.stack([rows(8, 6, seed=90 + i) for i in range(2)])
    seen = stack.step(x, x)
    _, loss = train_step(alone, Update(alone, made, config), x[1], x[1])
    torch.testing.assert_close(seen.total[1], loss.total.detach())
    torch.testing.assert_close(_flat(runs[1].model), _flat(alone.model), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(runs[1].tracker.since, alone.tracker.since)


def test_how_many_are_worth_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worth_stacking(48, 16, 16, 32, "cpu") == 1
    assert worth_stacking(48, 16, 16, 32, "cuda") == 1 or torch.cuda.is_available()
    monkeypatch.setattr(stack_fit.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(stack_fit.torch.cuda, "mem_get_info", lambda device: (2**30, 2**31))
    assert worth_stacking(2000, 96, 96, 512, "cuda") == 2**29 // (4 * (4 * 2000 * 192 + 8 * 512 * 2000)) == 13
    assert worth_stacking(48, 16, 16, 32, "cuda") == MOST
    assert worth_stacking(16000, 768, 768, 1024, "cuda") == 1
