"""The literature's table: every row in every form builds, trains a step, reads back from its text and is cited."""

from dataclasses import replace

import pytest
import torch

from monosem.anchors.term import Anchoring
from monosem.base.errors import ArgumentError, UnknownNameError
from monosem.base.spec import parse_call
from monosem.core.activations import BatchTopK, Context, TopK
from monosem.core.pairs import PAIRINGS, SAE, Crosscoder, CrossLayer, Transcoder
from monosem.losses.revival import AuxK
from monosem.losses.sparsity import Lp
from monosem.methods import METHODS, crosscoding, method, recipe_of, transcoding, with_anchoring
from tests.losses.trials import make_step

ROWS = {
    "relu_l1": "bricken2023",
    "p_anneal": "karvonen2024",
    "gated": "rajamanoharan2024a",
    "jumprelu": "rajamanoharan2024b",
    "topk": "gao2024",
    "batch_topk": "bussmann2024",
    "matryoshka": "bussmann2025",
    "multi_topk": "gao2024",
    "binary": "tang2025",
}
FORMS = {
    "": ((6,), (6,), SAE(), ""),
    "_transcoder": ((6,), (5,), Transcoder(), "dunefsky2024"),
    "_skip_transcoder": ((6,), (5,), Transcoder(skip=True), "paulo2025"),
    "_crosscoder": ((4, 3), (4, 3), Crosscoder(), "lindsey2024"),
    "_cross_layer": ((4, 3), (3, 2), CrossLayer(), "ameisen2025"),
}


def test_the_table_holds_the_literature() -> None:
    assert {name: recipe.citation.key for name, recipe in METHODS.items()} == ROWS
    assert {pairing for _, _, pairing, _ in FORMS.values()} == set(PAIRINGS.values())
    assert all(recipe.summary for recipe in METHODS.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_every_row_builds_in_every_form(name: str, form: str) -> None:
    p_widths, r_widths, pairing, cited = FORMS[form]
    built = method(f"{name}{form}")
    assert built.pairing == pairing
    assert method(built.spec) == built
    assert built.spec.startswith(f"{name}{form}(")
    recipe, citation = recipe_of(built.spec)
    assert recipe is METHODS[name]
    assert (citation.key if citation else "") == cited

    x_p = torch.randn(10, sum(p_widths))
    x_r = x_p if p_widths == r_widths else torch.randn(10, sum(r_widths))
    model, objective = built.build(32, p_widths, r_widths, sample=(x_p, x_r))
    again, _ = built.build(32, p_widths, r_widths, sample=(x_p, x_r))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    context, dead = Context(True, 0, 10), torch.arange(32) < 8
    step = make_step(model.train(), objective, (x_p, x_r), dead, context)
    loss = objective(step, objective.init_state(model))
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert any(float(p.grad.abs().max()) > 0 for p in model.parameters() if p.grad is not None)


def test_arguments_come_from_text_or_keywords() -> None:
    built = method("topk(k=4)")
    assert built.activation == TopK(4)
    assert built.spec.startswith("topk(k=4, ")
    assert parse_call(built.spec)[1].keys() == METHODS["topk"].defaults.keys()
    assert method("topk", k=4) == built
    assert method("topk(k=9)", k=4) == built
    assert method("batch_topk(k=2.5, aux=0)").activation == BatchTopK(2.5)
    assert method("multi_topk(k=3)").terms[1:] == method("multi_topk(k=3, factor=4)").terms[1:]
    assert AuxK(0.5) in method("matryoshka(aux=0.5, fractions=(0.5, 1.0))").terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topkk", "did you mean 'topk'"),
        ("topk_transcodr(k=2)", "unknown method 'topk_transcodr'"),
        ("no_such_thing", "known: relu_l1, p_anneal"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        method(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topk(q=3)", "topk takes k, .*; q is unknown"),
        ("jumprelu_crosscoder(k=3, n=1)", "jumprelu_crosscoder takes l0, .*; k, n is unknown"),
        ("topk(k='four')", "cannot build"),
        ("topk(k=0)", "k=0"),
        ("topk(4)", "keyword literals"),
        ("topk(k=", "keyword literals"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        method(text)


def test_k_larger_than_the_dictionary_is_refused_when_it_is_built() -> None:
    with pytest.raises(ArgumentError, match="k=32 is larger than n_q=8; lower k or raise n_q"):
        method("topk").build(8, (4,), (4,))


def test_forms_change_what_they_must_and_nothing_else() -> None:
    base = method("relu_l1(l1=0.5)")
    across = crosscoding(base)
    assert across.terms == (base.terms[0], replace(base.terms[1], norm="sources"))  # type: ignore[call-arg]
    assert across.activation == base.activation
    annealed = crosscoding(method("p_anneal")).terms[1]
    assert isinstance(annealed, Lp)
    assert annealed.norm == "sources"
    assert transcoding(base).init.encoder == "random"
    assert transcoding(base).terms == base.terms
    plan = Anchoring(hard=True)
    assert with_anchoring(base, plan).anchoring == plan
    assert with_anchoring(base, plan).terms == base.terms


def test_biases_that_need_data_are_zero_without_a_sample() -> None:
    model, _ = method("topk(k=2)").build(8, (4,), (4,))
    assert float(model.b_D.detach().abs().sum()) == 0.0
