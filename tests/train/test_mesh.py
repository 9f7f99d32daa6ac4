"""Several processes train what one does: the same cells as sets, gradients, dead counts; and send what they must."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from monosem.anchors.term import Anchoring
from monosem.base import selection
from monosem.base.errors import ArgumentError, RefusedError
from monosem.base.group import ALONE, Axis, Group, said
from monosem.core.activations import AbsTopK, Activation, BatchTopK, Context, ReLU, TopK
from monosem.core.constraints import Tied, UnitNorm
from monosem.core.pairs import Crosscoder
from monosem.core.shards import cut, edges
from monosem.losses.resample import Resample
from monosem.methods import Method, cross_layering, method, with_anchoring
from monosem.methods.recipes import METHODS
from monosem.train.config import FitConfig
from monosem.train.loop import fit, start_run
from monosem.train.mesh import Processes
from tests.group import together
from tests.networks.shared import bytes_of, rows_of, stored, stream
from tests.train.scenes import SCENES, Scene, anchors, scene_source
from tests.train.several import Seen, in_processes, watched

STEPS, BATCH, WIDTH = 20, 15, 10
"""15 divides the 75 rows: one that is twice in a batch, at the end of an epoch, has scores that differ by rounding."""
EPS = 1e-3
"""A gradient that vanishes is rounding, which Adam would bring to the size of a step: with a tied start, that of a
latent which is alone in its rows. At 1e-4, weights changed by 1e-7 end 5e-4 apart where latents are resampled."""
CONFIG = FitConfig(STEPS, BATCH, 1e-2, eps=EPS, log_every=1, dead_window=40, clip=1.0, threads=1)
WHOLE = {
    *("group_max", "mp", "lista", "archetypal", "min_fire", "feature_choice", "kron", "switch", "scale", "route"),
    "adaptive_k",
}
"""Methods that need all latents in one process."""
SIZES = {"even": 32, "uneven": 29, "fewer than k": 12}
SETTINGS = {"multi_topk": "k=2", "ortsae": "k=3, chunk=7", "gemma_scope_2": "l0=3"}
"""k is 3 but where said otherwise; at 12 latents it is 7, more than one of two processes has."""


def _scene(name: str, n_q: int) -> Scene:
    wants_k = "k" in METHODS[name].defaults
    given = SETTINGS.get(name, "k=3" if wants_k else "")
    text = f"{name}({given.replace('k=3', 'k=7') if n_q == 12 else given})"
    several = name in ("delta_crosscoder", "dfc")
    source = scene_source(WIDTH, p_widths=(5, 5)) if several else scene_source(WIDTH)
    return Scene(method(text), source, n_q, CONFIG)


def _cases() -> dict[str, Callable[[], Scene]]:
    cases = {
        f"{name}, {size}": lambda name=name, n_q=n_q: _scene(name, n_q)
        for name in METHODS
        for size, n_q in SIZES.items()
        if name not in WHOLE
    }
    return cases | {
        f"scene {name}": lambda make=make: replace(made := make(), config=replace(made.config, log_every=1, eps=EPS))
        for name, make in SCENES.items()
    }


LAYERS = {"p_widths": (4, 3, 3), "r_widths": (3, 2, 3)}
TARGETS = ("topk(k=3)", "batch_topk(k=3)", "jumprelu", "relu_l1", "matryoshka(k=3)", "multi_topk(k=2)", "gated(l1=0.2)")


def _by_targets() -> dict[str, Callable[[], Scene]]:
    """Cross-layer transcoders, and what has one target or writes what it reads."""
    layers = {
        text: lambda text=text: Scene(cross_layering(method(text)), scene_source(10, 8, **LAYERS), 29, CONFIG)
        for text in TARGETS
    }
    private = replace(method("topk(k=3)"), pairing=Crosscoder(private=0.2))
    others = {
        "crosscoder": lambda: Scene(private, scene_source(WIDTH, p_widths=(5, 5)), 29, CONFIG),
        "in sources": lambda: Scene(
            replace(private, constraints=(UnitNorm(per="source"),)), scene_source(WIDTH, p_widths=(5, 5)), 29, CONFIG
        ),
        **{name: lambda name=name: replace(CASES[f"scene {name}"](), by="targets") for name in FREE},
    }
    return {
        f"targets, {name}": lambda make=make: replace(make(), by="targets") for name, make in (layers | others).items()
    }


FREE = ("resampled", "resampled stream", "jumprelu", "ghosts")
"""Scenes of which nothing is tied."""


def _stepped(text: str, pair: str) -> Scene:
    """Another optimiser; for steps so few that no sign of a gradient which is rounding has come in."""
    made = method(f"topk(k=3) | {text}")
    config = replace(CONFIG, steps=6, lr=1e-3)
    if pair == "sae":
        return Scene(made, scene_source(WIDTH), 29, config)
    by: Axis = "targets" if pair == "targets" else "latents"
    return Scene(cross_layering(made), scene_source(10, 8, **LAYERS), 29, config, by=by)


def _anchored() -> Scene:
    made = SCENES["hard"]()
    plan = with_anchoring(method("topk(k=3)"), Anchoring(sides="both", hard=True))
    return replace(made, method=plan, source=scene_source(WIDTH), config=CONFIG, anchors=anchors(20, WIDTH, WIDTH))


def _live() -> Scene:
    """A transcoder of a network that runs as it trains, each process a share of the batches."""
    group = Processes() if dist.is_initialized() else ALONE
    live = stream(group, [], normalise=True)
    return Scene(method("topk_transcoder(k=3)"), live, 29, replace(CONFIG, sample_rows=30))


CASES = _cases() | {
    "a network": _live,
    "anchors in two shards": _anchored,
    "resampled in both shards": lambda: replace(
        _scene("batch_topk", 29), method=replace(method("batch_topk(k=1)"), resample=Resample(every=4, rows=30))
    ),
}
CASES |= _by_targets() | {
    f"{text}, {pair}": lambda text=text, pair=pair: _stepped(text, pair)
    for text in ("adam(ema=0.8)", "muon(ema=0.5)", "schedule_free_sign")
    for pair in ("sae", "cross_layer", "targets")
    if (text[0], pair) != ("m", "targets")
}
RULES: dict[str, Activation] = {
    "topk": TopK(5),
    "by norm": TopK(5, rank_by_norm=True),
    "batch_topk": BatchTopK(4.5),
    "abs_topk": AbsTopK(5),
    "relu": ReLU(),
}
DEAD = {"in one shard": torch.arange(64) < 20, "spread": torch.arange(64) % 3 == 0, "none": torch.arange(64) > 99}


def _selected(rule: str, dead: str, group: Group) -> list[Tensor]:
    """The cells of a code, of 20 dead latents and of 9 latents, of rows and weights that are whole numbers: all tie."""
    generator = torch.Generator().manual_seed(5)
    model, _ = Method(RULES[rule], pre_bias="tied").build(64, (WIDTH,), (WIDTH,))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-2, 3, p.shape, generator=generator))
    x = torch.randint(-2, 3, (24, WIDTH), generator=generator).float()
    first, last = edges(64, group.size)[group.rank :][:2]
    if group.size > 1:
        cut(model, first, last, group)
    requests = (selection.TopK(20, among="dead"), selection.TopK(9))
    out = model.train()(x, requests, DEAD[dead][first:last], Context(True))
    codes = [out.code, *(out.extra[request] for request in requests)]
    cells = [code.to_dense().detach().nonzero(as_tuple=True) for code in codes]
    return [row * 64 + latent + first for row, latent in cells]


def _bytes_scenes() -> tuple[Scene, Scene]:
    quiet, made = replace(CONFIG, log_every=STEPS, steps=STEPS), method("topk(k=3, aux=0)")
    by_latents = Scene(replace(made, pre_bias="tied"), scene_source(WIDTH), 32, quiet)
    return by_latents, Scene(cross_layering(made), scene_source(10, 8, **LAYERS), 32, quiet, by="targets")


class _Of(NamedTuple):
    """What one process of several has to show."""

    seen: dict[str, Seen]
    cells: dict[tuple[str, str], list[Tensor]]
    sent: list[Seen]
    store: dict[str, bytes]
    rows: Tensor


ROWS = [(0, 25), (25, 50), (120, 170), (10, 20)]


def _all_cases(rank: int, size: int) -> _Of:
    seen = {name: watched(make(), size) for name, make in CASES.items()}
    cells = {(rule, dead): _selected(rule, dead, Processes()) for rule in RULES for dead in DEAD}
    folder = Path(said(Processes(), tempfile.mkdtemp())[0])
    stored(Processes(), folder)
    rows = rows_of(stream(Processes(), [], dtype=torch.bfloat16), ROWS)
    return _Of(seen, cells, [watched(scene, size) for scene in _bytes_scenes()], bytes_of(folder), rows)


@cache
def _one(name: str) -> Seen:
    return watched(CASES[name](), 1)


_several = cache(lambda size: in_processes(size, _all_cases))


def _near(ours: Tensor, theirs: Tensor, name: str, tolerance: float) -> None:
    """Within a share of the largest entry."""
    assert ours.shape == theirs.shape, name
    most = max(float(theirs.abs().max()), 1e-2) if theirs.numel() else 1.0
    error = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    assert error <= tolerance * most, f"{name}: {error / most:.2e} of the largest entry"


def _same(one: Seen, several: list[Seen], by: Axis) -> None:
    for step, wanted in enumerate(one.cells):
        cells = torch.cat([seen.cells[step] for seen in several]).sort().values
        assert torch.equal(cells, wanted.sort().values), f"other cells at step {step + 1}"
    for step, since in enumerate(one.since):
        assert torch.equal(torch.cat([seen.since[step] for seen in several]), since), f"dead at step {step + 1}"
    whole = one.own | one.everyones
    for name in several[0].own:
        ours = torch.cat([seen.own[name] for seen in several], int(by == "targets" and name.endswith("decoder")))
        _near(ours, whole[name], name, 1e-6 if name.startswith("first") else 1e-4)
    for name in several[0].everyones:
        wanted = whole[name]
        for seen in several:
            _near(seen.everyones[name], wanted, name, 1e-6 if name.startswith("first") else 1e-4)
            assert torch.equal(seen.everyones[name], several[0].everyones[name]), f"{name} drifts apart"
    for mine, entry in zip(several[0].log, one.log, strict=True):
        assert mine == pytest.approx(entry, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(name: str) -> None:
    _same(_one(name), [one.seen[name] for one in _several(2)], CASES[name]().by)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_four_processes_train_what_one_does(name: str) -> None:
    _same(_one(name), [one.seen[name] for one in _several(4)], CASES[name]().by)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("rule", RULES)
def test_ties_go_to_the_lower_latent_wherever_it_lies(rule: str, dead: str, size: int) -> None:
    """One shard without dead latents, one of which most are selected, cells of equal score in all of them."""
    whole = _selected(rule, dead, ALONE)
    for number, wanted in enumerate(whole):
        cells = torch.cat([one.cells[rule, dead][number] for one in _several(size)])
        assert torch.equal(cells.sort().values, wanted.sort().values), number


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_step_sends_what_the_page_says(size: int) -> None:
    """Partial sums of the decode and the gradients of b_in and of the clip's norm; of each candidate its score."""
    k, summed = 3, 2 * (size - 1) / size
    decode, candidates = summed * BATCH * WIDTH * 4, (size - 1) * (BATCH * k * 4 + 8)
    wanted = decode + candidates + summed * (WIDTH * 4 + 8)
    for one in _several(size):
        steps = [b - a for a, b in pairwise(one.sent[0].sent)][1:-1]
        assert steps == pytest.approx([wanted] * len(steps))


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_network_runs_once_for_all_and_gives_the_rows_of_one_process(size: int, tmp_path: Path) -> None:
    """Forward, far ahead and back again; and a store to the byte."""
    wanted = rows_of(stream(ALONE, [], dtype=torch.bfloat16), ROWS)
    for one in _several(size):
        assert torch.equal(one.rows, wanted)
    stored(ALONE, tmp_path)
    assert _several(size)[-1].store == bytes_of(tmp_path)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_codes_go_to_the_targets(size: int) -> None:
    """Of each cell its latent, its value and the gradient of that; of each latent what its norm takes."""
    k, n_q, summed = 3, 32, 2 * (size - 1) / size
    ranks = [one.sent[1] for one in _several(size)]
    most = [max(cells) for cells in zip(*([len(part) for part in seen.cells] for seen in ranks), strict=True)]
    fixed = (size - 1) * (BATCH * k * 4 + 8) + (size - 1) * (BATCH * 4 + 3 * 8) + summed * (1 + 4 + 8 + 3 * n_q * 4)
    wanted = [fixed + summed * BATCH * k * 4 + (size - 1) * 8 * cells for cells in most]
    for seen in ranks:
        assert [b - a for a, b in pairwise(seen.sent)][1:-1] == pytest.approx(wanted[2:-1])


@pytest.mark.parametrize(("mesh", "why"), [("latents=2", "torchrun"), ("rows=2", "latents=P"), ("latents", "P")])
def test_a_mesh_that_is_not_there_is_one_error(mesh: str, why: str) -> None:
    with pytest.raises(ArgumentError, match=why):
        fit("topk(k=3)", scene_source(WIDTH), 32, CONFIG, mesh=mesh)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_what_needs_all_latents_in_one_process_is_refused(name: str) -> None:
    source = scene_source(WIDTH, p_widths=(5, 5)) if name == "route" else scene_source(WIDTH)
    given = {"lista": "l1=0.1", "adaptive_k": "least=1"}.get(name, "k=2")
    config = replace(CONFIG, steps=1)

    def work(group: Group) -> None:
        run = start_run(method(f"{name}({given})"), source, 32, config, None, group)
        run.model(source.take(torch.arange(8))[0])

    with pytest.raises(RefusedError, match=r"one process|several processes"):
        together(2, work)


@pytest.mark.parametrize("name", ["ortsae", "aligned", "tied", "pre-bias"])
def test_what_needs_whole_columns_is_refused_by_targets(name: str) -> None:
    own = {"tied": {"constraints": (Tied(),)}, "pre-bias": {"pre_bias": "tied"}}
    made = replace(method("topk(k=2)"), **own[name]) if name in own else method(f"{name}(k=2)")

    def work(group: Group) -> None:
        group.by = "targets"
        start_run(made, scene_source(WIDTH), 32, CONFIG, None, group)

    with pytest.raises(RefusedError, match=r"all of a column|untie"):
        together(2, work)


def test_one_latent_a_process_at_least() -> None:
    assert edges(5, 5) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ArgumentError, match="n_q=3"):
        edges(3, 4)
