"""A run that goes on from a trained model begins with its function, whatever its units, biases and column norms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, MonosemError, RefusedError, ShapeError
from monosem.core.constraints import UnitNorm
from monosem.core.io import load_config
from monosem.core.model import SDL
from monosem.core.pairs import Crosscoder, TensorSource, Transcoder
from monosem.core.units import Units
from monosem.methods import method
from monosem.train.config import FitConfig
from monosem.train.loop import fit, start_run
from monosem.train.start import Start
from tests.train.scenes import rows

CONFIG = FitConfig(steps=6, batch_size=16, lr=1e-2, log_every=1, threads=1)
METHODS = ["topk(k=3)", "batch_topk(k=3)", "jumprelu(l0=0.1)", "relu_l1(l1=0.01)", "gated", "topk_transcoder(k=3)",
           "topk_skip_transcoder(k=3)", "relu_l1_crosscoder(l1=0.01)", "relu_l1_cross_layer(l1=0.01)"]  # fmt: skip


class _Scaled(TensorSource):
    """Rows in units of training."""

    def __init__(self, *given: Any, units: Units | None = None, **more: Any) -> None:
        super().__init__(*given, **more)
        self.raw, self.units = given[0], units

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x_p, x_r = super().take(index)
        return (x_p, x_r) if self.units is None else self.units.both(x_p, x_r)


def _source(name: str, scaled: bool, shift: float = 0.0) -> _Scaled:
    """75 rows of one or two sources; `shift`: others, with other units."""
    several = "cross" in name
    x_p = rows(75, 10) * 3 + 1 + shift * rows(75, 10, seed=5)
    x_r = rows(75, 10, seed=1) * 2 if "transcoder" in name or "layer" in name else None
    widths: dict[str, Any] = {"p_widths": (5, 5)} if several else {}
    widths |= {"r_widths": (5, 5)} if several and x_r is not None else {}
    m = (5, 5) if several else (10,)
    units = Units.of(x_p, x_p if x_r is None else x_r, m, m) if scaled else None
    return _Scaled(x_p, x_r, digest=f"rows {shift} {scaled}", units=units, **widths)


def _function(model: SDL, source: _Scaled, units: Units | None = None) -> tuple[Tensor, Tensor]:
    """(code, reconstruction of raw rows) of a model that reads rows in units."""
    x_p = source.raw
    out = model.eval()(x_p if units is None else units.read(x_p))
    x_r_hat = out.x_r_hat if units is None else out.x_r_hat / units.r_scale + units.r_mean
    return out.code.to_dense().detach(), x_r_hat.detach()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_begins_where_another_ended(name: str, scaled: bool) -> None:
    """The same rows in the same units, then others: same latents active, same reconstruction of raw rows."""
    source = _source(name, scaled)
    trained = fit(name, source, 24, CONFIG).model
    code, x_r_hat = _function(trained, source)
    for other in (source, _source(name, True), _source(name, False)):
        run = start_run(method(name), other, 24, CONFIG, start=Start(trained))
        again, reconstructed = _function(run.model, source, other.units)
        torch.testing.assert_close(reconstructed, x_r_hat, rtol=1e-3, atol=1e-4)
        assert torch.equal(again != 0, code != 0)


@pytest.mark.parametrize("bias", ["none", "free", "tied"])
def test_what_is_subtracted_becomes_the_runs_own(bias: str) -> None:
    source = _source("topk", scaled=True)
    trained = fit("topk(k=3)", source, 24, CONFIG).model
    assert trained.pre_bias == "free"
    run = start_run(replace(method("topk(k=3)"), pre_bias=bias), source, 24, CONFIG, start=Start(trained))  # type: ignore[arg-type]
    assert run.model.pre_bias == bias
    again = _function(run.model, source, source.units)
    for ours, theirs in zip(again, _function(trained, source), strict=True):
        torch.testing.assert_close(ours != 0, theirs != 0)
    torch.testing.assert_close(again[1], _function(trained, source)[1], rtol=1e-3, atol=1e-4)


def test_columns_that_are_not_of_norm_one() -> None:
    """Brought to it with their latents; refused where that would change a ranking."""
    source = _source("jumprelu", scaled=False)
    free = replace(method("jumprelu(l0=0.1)"), constraints=())
    trained = fit(free, source, 24, CONFIG).model
    with torch.no_grad():
        trained.decoder.scale_rows(torch.linspace(0.5, 2.0, 24))
    run = start_run(method("jumprelu(l0=0.1)"), source, 24, CONFIG, start=Start(trained))
    torch.testing.assert_close(run.model.decoder_norm(), torch.ones(24))
    torch.testing.assert_close(_function(run.model, source)[1], _function(trained, source)[1], rtol=1e-3, atol=1e-4)
    ranked, _ = method("topk(k=3)").build(24, (10,), (10,))
    with torch.no_grad():
        ranked.decoder.scale_rows(torch.linspace(0.5, 2.0, 24))
    with pytest.raises(RefusedError, match=r"norm 0.5 to 2, which unit_norm would bring to 1; add '\| - unit_norm'"):
        start_run(method("topk(k=3)"), source, 24, CONFIG, start=Start(ranked))
    kept = start_run(replace(method("topk(k=3)"), constraints=()), source, 24, CONFIG, start=Start(ranked))
    assert torch.equal(kept.model.W_D, ranked.W_D)


def test_it_goes_on_and_writes_down_from_where(tmp_path: Path) -> None:
    source = _source("topk", scaled=True)
    first = fit("topk(k=3)", source, 24, replace(CONFIG, steps=60), out=tmp_path / "first")
    start = Start(first.model, str(tmp_path / "first"))
    second = fit("topk(k=4)", source, 24, CONFIG, start=start, out=tmp_path / "second")
    cold = fit("topk(k=4)", source, 24, CONFIG)
    assert second.log[0]["fvu"] < first.log[-1]["fvu"] * 1.2 < cold.log[0]["fvu"]
    said = load_config(tmp_path / "second").metadata["start"]
    assert said == start.about() == {"file": str(tmp_path / "first"), "sha256": Start(first.model).about()["sha256"]}
    assert "start" not in load_config(tmp_path / "first").metadata
    longer = replace(CONFIG, steps=12)
    on = fit("topk(k=4)", source, 24, longer, start=first.model, out=tmp_path / "second")
    whole = fit("topk(k=4)", source, 24, longer, start=first.model)
    assert on.log[-1]["step"] == 12
    assert len(whole.log) == 12
    with pytest.raises(CheckpointError, match=r"another run: start was .*, is None"):
        fit("topk(k=4)", source, 24, longer, out=tmp_path / "second")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"n_q": 16}, ShapeError, r"n_q of start: 24, of this run: 16; give the same n_q"),
        ({"source": TensorSource(rows(75, 8))}, ShapeError, r"widths of x_p of start: \(10,\), of this run: \(8,\)"),
        ({"method": "relu_l1"}, RefusedError, "start has activation TopK, the method ReLU; take its method"),
        ({"method": replace(method("topk(k=3)"), pairing=Transcoder())}, RefusedError, "x_r = x_p: True, the method F"),
        (
            {"method": replace(method("topk(k=3)"), pairing=Crosscoder()),
             "source": TensorSource(rows(75, 10), p_widths=(5, 5))}, ShapeError, r"\(10,\), of this run: \(5, 5\)",
        ),
    ],
)  # fmt: skip
def test_what_weights_cannot_make_up_for_is_refused(change: dict[str, Any], error: type, says: str) -> None:
    start, _ = method("topk(k=3)").build(24, (10,), (10,))
    given: dict[str, Any] = {
        "method": "topk(k=3)",
        "source": _source("topk", scaled=False),
        "n_q": 24,
        "config": CONFIG,
    }
    with pytest.raises(error, match=says) as refused:
        fit(**given | change, start=start)
    assert issubclass(refused.type, MonosemError)


def test_unit_norm_in_each_source_is_the_runs() -> None:
    start, _ = replace(method("topk_crosscoder(k=3)"), constraints=(UnitNorm(per="source"),)).build(24, (5, 5), (5, 5))
    plan, source = replace(method("topk_crosscoder(k=3)"), constraints=(UnitNorm("source"),)), _source("cross", False)
    run = start_run(plan, source, 24, CONFIG, start=Start(start))
    torch.testing.assert_close(run.model.W_D, start.W_D)
