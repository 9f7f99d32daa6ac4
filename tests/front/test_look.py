"""What one looks at: results, models, codes and registries in a line and as a card; scores; the page in a cell."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import monosem as ms
from monosem.base.errors import ArgumentError, MonosemError, ShapeError
from monosem.train.result import Result

X = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def result() -> Result:
    return ms.fit("topk(k=3)", X, 16, steps=6, batch_size=8, log_every=1)


def test_a_result_is_one_line_and_a_card(result: Result) -> None:
    assert repr(result).startswith("Result(topk(k=3, aux=0.03125), 8 -> 16 -> 8, 6 steps: fvu ")
    assert "\n" not in repr(result)
    card = result._repr_html_()
    assert card.count("<svg") == 3
    assert f"{result.log[-1]['fvu']:.4f}" in card
    assert "64 rows" in card


def test_a_result_is_saved_with_how_it_was_made(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "sae")
    about = json.loads((tmp_path / "sae" / "config.json").read_text())["metadata"]
    assert about["method"] == "topk(k=3, aux=0.03125)"
    assert about["config"]["batch_size"] == 8
    assert about["data"]["rows"] == 64
    assert about["seed"] == 0
    assert "torch" in about["versions"]
    assert torch.equal(ms.load(tmp_path / "sae").W_D, result.W_D)
    assert len((tmp_path / "sae" / "log.jsonl").read_text().splitlines()) == len(result.log)


def test_a_log_is_plotted_and_framed(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = result.plot("loss", "fvu")
    assert [ax.get_title() for ax in figure.axes] == ["loss", "fvu"]
    with pytest.raises(ArgumentError, match="nothing logged is called fvv; known: dead"):
        result.plot("fvv")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MonosemError, match="a data frame needs pandas; pip install pandas"):
        result.to_frame()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert [row["step"] for row in result.to_frame()] == [1, 2, 3, 4, 5, 6]


def test_models_and_registries_say_what_they_are(result: Result) -> None:
    assert repr(result.model).startswith("SDL(TopK(k=3")
    assert "8 -&gt; 16 -&gt; 8" in result.model._repr_html_()
    assert repr(ms.METHODS).startswith(f"{len(ms.METHODS)} x method: relu_l1,")
    assert "largest latents" in ms.METHODS._repr_html_()


def test_scores_of_a_dictionary_on_rows_and_on_the_truth(result: Result, tmp_path: Path) -> None:
    scores = ms.evaluate(result, X)
    with torch.no_grad():
        rows = X.reshape(-1, 8)
        e = rows - result.model(rows).x_r_hat
    assert scores["fvu"] == pytest.approx(float(e.square().sum() / (rows - rows.mean(0)).square().sum()), rel=1e-5)
    assert ms.evaluate(result.save(tmp_path / "m"), X.numpy()) == scores
    assert ms.score(result, result.W_D.detach())["decoder_cosine.M_GT@0.95"] == 1.0
    assert "fvu" in scores._repr_html_()
    with pytest.raises(ShapeError, match=r"the rows have \(n_p, n_r\) = \(5, 5\)"):
        ms.evaluate(result, torch.randn(3, 5))


def test_the_page_opens_in_a_cell(result: Result, tmp_path: Path) -> None:
    page = ms.inspect(result, X[:2], tokens=[list("abcdefghijklmnop")] * 2, title="Letters & more")
    assert page.html.startswith("<!doctype html>")
    assert page._repr_html_().startswith("<iframe srcdoc=")
    assert "Letters &amp; more" in page.html
    assert page.save(tmp_path / "p.html").read_text() == page.html
    with pytest.raises(ShapeError, match="3 tokens for 32 rows"):
        ms.inspect(result, X[:2], tokens=["a", "b", "c"])
    assert ms.inspect(result, X, most=10, labels=["x", "y"] * 32).html != page.html


def test_discovery_gives_anchors_to_fit() -> None:
    rows = torch.eye(6).repeat(200, 1) * (1.0 + torch.arange(1200)[:, None] % 7)
    discovered = ms.discover(rows.reshape(2, 600, 6))
    result = ms.fit("topk(k=1)", rows, 12, anchors=discovered, steps=5)
    assert result.about["anchors"] == {"kind": "discovered", "k": 6}
