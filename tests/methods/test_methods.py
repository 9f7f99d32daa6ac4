"""The literature's table: every row in every form builds, trains a step, reads back from its text and is cited."""

from dataclasses import replace

import pytest
import torch

from monosem.anchors.term import Anchoring
from monosem.base.errors import ArgumentError, RefusedError, UnknownNameError
from monosem.base.spec import digest, parse_call
from monosem.core.activations import BatchTopK, Context, TopK
from monosem.core.dictionaries import Free, Tied
from monosem.core.encoders import Affine, Refined
from monosem.core.pairs import PAIRINGS, SAE, Crosscoder, CrossLayer, TensorSource, Transcoder, WeaklyCausal
from monosem.losses.revival import AuxK
from monosem.losses.sparsity import Lp
from monosem.methods import METHODS, crosscoding, method, recipe_of, transcoding, with_anchoring
from monosem.train.config import FitConfig
from monosem.train.loop import fit
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
    "abs_topk": "saelens2024",
    "group_max": "sparsify2024",
    "ortsae": "korznikov2025",
    "hier_topk": "balagansky2025",
    "aligned": "brzozowski2026",
    "gemma_scope_2": "mcdougall2025",
    "delta_crosscoder": "kassem2026",
    "dfc": "jiralerspong2026",
    "mp": "costa2025",
    "lista": "gregor2010",
    "archetypal": "fel2025",
    "ordered_matryoshka": "bussmann2025",
    "anthropic_jan25": "anthropic2025",
    "subspace": "wang2025",
    "min_fire": "chanin2026",
    "feature_choice": "ayonrinde2024",
    "dense_branch": "deng2026",
    "kron": "kurochkin2025",
    "switch": "mudide2024",
    "scale": "xu2025",
    "aen": "chaudhry2026",
    "t_sae": "bhalla2025",
    "meta_sae": "levinson2026",
    "adaptive_k": "yao2025",
    "route": "shi2025",
}
OWN = {"delta_crosscoder": Crosscoder(), "dfc": Crosscoder(0.05), "dense_branch": SAE(skip=True), "route": Crosscoder()}
"""Rows with a pairing of their own."""
FORMS = {
    "": ((6,), (6,), SAE(), ""),
    "_transcoder": ((6,), (5,), Transcoder(), "dunefsky2024"),
    "_skip_transcoder": ((6,), (5,), Transcoder(skip=True), "paulo2025"),
    "_crosscoder": ((4, 4), (4, 4), Crosscoder(), "lindsey2024"),
    "_cross_layer": ((4, 3), (3, 2), CrossLayer(), "ameisen2025"),
    "_weakly_causal": ((4, 4), (4, 4), WeaklyCausal(), "mcdougall2025"),
}


_OTHER_SPACE = ("_transcoder", "_skip_transcoder", "_cross_layer")
REFUSED = {
    **{("aligned", form): "an inner product of w_E" for form in (*_OTHER_SPACE, "_weakly_causal")},
    **{("mp", form): "what is left of x_p" for form in _OTHER_SPACE},
    **{("lista", form): "what is left of x_p" for form in _OTHER_SPACE},
    **{("delta_crosscoder", form): "no difference to reconstruct" for form in ("_transcoder", "_skip_transcoder")},
    ("delta_crosscoder", "_cross_layer"): "cannot be subtracted",
    **{("route", form): "among sources of one width" for form in _OTHER_SPACE},
    ("route", "_weakly_causal"): "may read its block alone",
    ("mp", "_weakly_causal"): "a tied dictionary needs",
    **{
        (name, form): "may read its block alone"
        for name in ("kron", "switch", "scale")
        for form in ("_cross_layer", "_weakly_causal")
    },
    **{
        ("dense_branch", form): "there is no W_skip"
        for form in ("_transcoder", "_crosscoder", "_cross_layer", "_weakly_causal")
    },
}
"""Rows that a pairing forbids, and why."""


def test_the_table_holds_the_literature() -> None:
    assert {name: recipe.citation.key for name, recipe in METHODS.items()} == ROWS
    assert {pairing for _, _, pairing, _ in FORMS.values()} == set(PAIRINGS.values())
    assert all(recipe.summary for recipe in METHODS.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_every_row_builds_in_every_form(name: str, form: str) -> None:
    p_widths, r_widths, pairing, cited = FORMS[form]
    built = method(f"{name}{form}")
    if name in OWN and not form:
        pairing = OWN[name]
        p_widths, r_widths, *_ = FORMS["" if isinstance(pairing, SAE) else "_crosscoder"]
    assert built.pairing == pairing
    assert method(built.spec) == built
    assert built.spec.startswith(f"{name}{form}(") or name in OWN
    recipe, citation = recipe_of(built.spec)
    assert recipe is METHODS[name]
    own = built.pairing == OWN.get(name)  # a row of that pairing by itself spells no form
    assert (citation.key if citation else "") == ("" if own else cited)

    x_p = torch.randn(10, sum(p_widths))
    x_r = x_p if p_widths == r_widths else torch.randn(10, sum(r_widths))
    if (name, form) in REFUSED:
        with pytest.raises(RefusedError, match=REFUSED[name, form]):
            built.build(32, p_widths, r_widths, sample=(x_p, x_r))
        return
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
    assert method("topk(4)") == built
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
        ("jumprelu_crosscoder(k=3)", "jumprelu takes l0, .*; k is unknown"),
        ("topk(k='four')", "cannot build"),
        ("topk(k=0)", "k=0"),
        ("topk(k=", "literal arguments"),
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


# Encoders and dictionaries ---------------------------------------------------------------------------------


AFFINE = [
    name for name in METHODS if name not in ("aligned", "mp", "lista", "archetypal", "kron", "switch", "scale", *OWN)
]


@pytest.mark.parametrize("form", ["", "_crosscoder"])
@pytest.mark.parametrize("name", AFFINE)
def test_every_row_takes_an_encoder_and_a_dictionary(name: str, form: str) -> None:
    text = f"{name}{form}(encoder='refined(steps=2)', dictionary='tied')"
    built = method(text)
    assert built == method(built.spec)
    assert (built.encoder, built.dictionary) == (Refined(2), Tied())
    assert built.spec.endswith(" | refined(steps=2, rate=0.1) + tied")
    assert replace(built, encoder=Affine(), dictionary=Free(), spec="") == replace(method(name + form), spec="")
    p_widths, r_widths, _, _ = FORMS[form]
    x = torch.randn(10, sum(p_widths))
    model, objective = built.build(32, p_widths, r_widths, sample=(x, x))
    assert torch.equal(model.W_E, model.W_D.T)
    step = make_step(model.train(), objective, (x, x), torch.zeros(32, dtype=torch.bool), Context(True))
    objective(step, objective.init_state(model)).total.backward()
    assert model.enc["rate"].grad is not None


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("topk(k=4)", "4ff0b8ca0d61021e033a777bc426ed108c2a5034240d7d19cd928d63a4d34781"),
        ("gated_crosscoder(l1=0.5)", "69e091314f93238da24a224c0ef9ad063b766e50af73a4da3aeeefaf08e87b91"),
        ("jumprelu_skip_transcoder", "e8cc4326aafe3884ccd24c76634ef094c5eceb723c16ebd2bb15805e5b8d92cb"),
    ],
)
def test_defaults_change_neither_spec_nor_digest(text: str, before: str) -> None:
    """Runs from before methods had encoders and dictionaries go on."""
    built = method(text)
    assert "encoder" not in built.spec
    assert digest(built) == before
    assert digest(replace(built, encoder=Refined())) != before
    assert digest(replace(built, dictionary=Tied())) != before


def test_encoders_and_dictionaries_are_refused_with_the_reason() -> None:
    with pytest.raises(RefusedError, match="Refined cannot go with this layout"):
        method("topk_transcoder(k=4, encoder='refined')").build(16, (6,), (6,))
    with pytest.raises(RefusedError, match="a tied dictionary needs W_E and W_D over the same columns"):
        method("topk_transcoder(k=4, dictionary='tied')").build(16, (6,), (5,))
    with pytest.raises(UnknownNameError, match="did you mean 'affine'"):
        method("topk(encoder='afine')")
    with pytest.raises(ArgumentError, match="stepz is unknown; did you mean 'steps'"):
        method("topk(encoder='refined(stepz=2)')")


def test_a_refined_encoder_and_a_tied_dictionary_train_together_and_load() -> None:
    data = TensorSource(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    config = FitConfig(steps=30, batch_size=32, lr=1e-2)
    text = "topk(k=2, aux=0.0, encoder='refined(steps=2)', dictionary='tied')"
    result = fit(text, data, 16, config)
    assert torch.equal(result.model.W_E, result.model.W_D.T)
    assert not torch.equal(result.model.enc["rate"], torch.full((2,), 0.1))
    assert result.log[-1]["fvu"] < 0.8 * result.log[0]["fvu"]


def test_a_skip_of_an_autoencoder_needs_a_bound_on_its_rank() -> None:
    with pytest.raises(RefusedError, match="W_skip = I leaves nothing to latents"):
        method("topk(k=2) @ sae(skip=True)").build(16, (6,), (6,))
    source = TensorSource(torch.randn(64, 6, generator=torch.Generator().manual_seed(0)))
    made = fit("topk(k=2) | skip_rank(2) @ sae(skip=True)", source, 16, FitConfig(steps=5, batch_size=16)).model
    assert made.W_skip is not None
    assert int(torch.linalg.matrix_rank(made.W_skip.detach().double(), rtol=1e-5)) == 2
