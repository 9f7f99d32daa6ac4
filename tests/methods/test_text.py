"""The text of a method reaches everything that is registered, reads back, and answers what is wrong with the remedy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from monosem.anchors.term import Anchoring
from monosem.base.calls import REQUIRED, Call, arguments, read
from monosem.base.errors import ArgumentError, UnknownNameError
from monosem.base.schedule import SCHEDULES, Cosine, Course, Ramp
from monosem.core.activations import ACTIVATIONS, Activation, BatchTopK, ReLU, TopK
from monosem.core.constraints import CONSTRAINTS, Fixed, UnitNorm
from monosem.core.dictionaries import DICTIONARIES, Tied
from monosem.core.encoders import ENCODERS, Refined
from monosem.core.init import Init
from monosem.core.pairs import PAIRINGS, Crosscoder
from monosem.losses.fidelity import Matryoshka, Reconstruction
from monosem.losses.objective import TERMS
from monosem.losses.resample import Resample
from monosem.losses.revival import AuxK
from monosem.losses.sparsity import L0, L1
from monosem.methods import METHODS, Method, brief, method, name_of, text_of
from monosem.methods.optimisers import OPTIMISERS, Muon
from tests.refused import all_activations, all_terms


def made_in_python() -> Iterator[Method]:
    """A method with each registered thing in turn, and with every setting."""
    for activation in all_activations().values():
        yield Method(activation)
    for term in all_terms().values():
        yield Method(ReLU(), (term,) if term.whole else (Reconstruction(), term))
        more = () if isinstance(term, AuxK) else (AuxK(0.5),)
        yield Method(TopK(2), (term, *more) if term.whole else (Reconstruction(), term, *more))
    for kind in CONSTRAINTS.values():
        yield Method(ReLU(), constraints=(kind(),))
        yield Method(ReLU(), constraints=(Fixed(("b_E",)), kind()) if kind is not Fixed else ())
    for kind in ENCODERS.values():
        yield Method(TopK(2), encoder=kind())
    for kind in DICTIONARIES.values():
        yield Method(TopK(2), dictionary=kind())
    for kind in OPTIMISERS.values():
        yield Method(TopK(2), optimiser=kind())
    yield Method(TopK(2), optimiser=Muon(Cosine(1.0, 0.0), 0.9, 0.5))
    for name, pairing in PAIRINGS.items():
        yield replace(method(f"topk_{name}" if name != "sae" else "topk"), spec="")
        yield Method(ReLU(), (Reconstruction(), L1(0.3, "sources")), pairing)
    for schedule in SCHEDULES.values():
        required = [name for name, default in arguments(schedule).items() if default is REQUIRED]
        yield Method(ReLU(), (Reconstruction(), L1(schedule(**dict.fromkeys(required, 0.5)))))
    yield Method(TopK(2), pre_bias="tied", resample=Resample(every=7), anchoring=Anchoring(Ramp(0.0, 1.0), hard=True))
    yield Method(BatchTopK(2.5, k_start=9, anneal=0.5), init=Init("random", b_D="mean"), pairing=Crosscoder(0.1))
    yield Method(TopK(2), (AuxK(), Reconstruction()))


def _to_toml(text: str) -> str:
    """A method's text as TOML. An argument None has no place in TOML: it is left out, as its default."""
    head, edits = read(text)
    away = [f'"{edit.call.name}"' for edit in edits if edit.remove]
    tables = [("method", head), *((edit.section, edit.call) for edit in edits if not edit.remove)]
    lines = [f"without = [{', '.join(away)}]"] if away else []
    for section, call in tables:
        assert not call.positional
        lines += [f"[{section}.{call.name}]"]
        lines += [f"{name} = {_plain_toml(value)}" for name, value in call.named.items() if value is not None]
    return "\n".join(lines)


def _plain_toml(value: Any) -> str:
    if isinstance(value, Call):
        inside = ", ".join(f"{name} = {_plain_toml(item)}" for name, item in value.named.items())
        return f"{{ {value.name} = {{ {inside} }} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)


@pytest.mark.parametrize("made", list(made_in_python()), ids=lambda made: repr(made)[:60])
def test_every_method_has_a_text_and_a_table_that_read_back(made: Method, tmp_path: Path) -> None:
    text = text_of(made)
    again = method(text)
    assert replace(again, spec="") == made
    assert again.spec == text
    assert method(again.spec) == again
    path = tmp_path / "m.toml"
    path.write_text(_to_toml(text))
    assert method(str(path)) == again


OWN = {"delta_crosscoder", "dfc", "dense_branch", "route"}
"""Rows with a pairing of their own."""


@pytest.mark.parametrize("name", sorted({*METHODS, *ACTIVATIONS} - OWN))
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_pairing_is_a_suffix_or_stands_after_at(name: str, pairing: str) -> None:
    given = {"k": 2} if "k" in arguments(ACTIVATIONS[name] if name not in METHODS else METHODS[name].make) else {}
    after = method(f"{Call(name, named=given)} @ {pairing}")
    suffixed = method(str(Call(name if pairing == "sae" else f"{name}_{pairing}", named=given)))
    assert after == suffixed
    assert after.pairing == PAIRINGS[pairing]


def test_a_row_keeps_its_own_pairing_unless_the_text_names_another() -> None:
    assert {name for name in METHODS if method(name).pairing != PAIRINGS["sae"]} == OWN
    assert method("dfc(k=3, private=0.1)").pairing == Crosscoder(0.1)
    assert method("dfc(k=3) @ crosscoder(private=0.2)").pairing == Crosscoder(0.2)
    assert method("dfc(k=3) @ crosscoder(private=0.2)").spec.endswith(" @ crosscoder(private=0.2)")
    assert method("dfc_weakly_causal(k=3)").pairing == PAIRINGS["weakly_causal"]


def test_the_example_of_the_documentation() -> None:
    made = method("topk(32) + l1(0.25, norm='none') | unit_norm(per='source') + tied @ crosscoder(private=.05)")
    assert made.activation == TopK(32)
    assert made.terms == (Reconstruction(), AuxK(), L1(0.25, norm="none"))
    assert made.constraints == (UnitNorm("source"),)
    assert made.dictionary == Tied()
    assert made.pairing == Crosscoder(0.05)
    assert made.spec.endswith("| unit_norm(per='source') + tied @ crosscoder(private=0.05)")
    assert brief(made.spec) == (
        "topk + l1(weight=0.25, norm='none') | unit_norm(per='source') + tied @ crosscoder(private=0.05)"
    )
    assert name_of(made.spec) == "topk+l1+unit_norm+tied@crosscoder"


def test_edits_replace_what_is_of_their_kind() -> None:
    made = method("jumprelu + l0(0.5, target=30)")
    assert made.terms == (Reconstruction(), L0(0.5, target=30))
    nested = method("topk(k=3) + matryoshka(fractions=(1/2, 1.0))")
    assert nested.terms == (Matryoshka(fractions=(0.5, 1.0)), AuxK())
    assert method("topk(k=4) - auxk | - unit_norm").terms == (Reconstruction(),)
    assert method("topk(k=4) | - unit_norm").constraints == ()
    assert method("topk(k=4) | init(b_D='mean')").init == Init(b_D="mean")
    assert method("topk_transcoder(k=4) | init(b_D='mean')").init == Init("random", b_D="mean")
    assert method("topk(k=4) | resample(every=5) - resample") == method("topk(k=4)")
    assert method("relu + l1(0.1) @ crosscoder").terms[1] == L1(0.1, norm="sources")
    assert method("relu + l1(0.1, norm='decoder') @ crosscoder").terms[1] == L1(0.1)


def test_every_argument_of_an_activation_is_the_heads() -> None:
    made = method("topk(4, k_start=64, anneal=0.5)")
    assert made.activation == TopK(4, k_start=64, anneal=0.5)
    assert AuxK() in made.terms
    assert method("topk", k=7, k_start=9).activation == TopK(7, k_start=9)
    assert method("relu_l1(l1=cosine(0.0, 1.0, end=0.5))").terms[1] == L1(Cosine(0.0, 1.0, end=0.5))


def test_a_part_that_head_and_edit_say_is_the_edits() -> None:
    made = method("topk(k=3, encoder=refined(steps=2), dictionary='tied') | refined(steps=3)")
    assert (made.encoder, made.dictionary) == (Refined(3), Tied())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topk(k=4) + orto(0.1)", "unknown term 'orto'; did you mean 'ortho'"),
        ("topk(k=4) + unit_norm", "unit_norm'; it is a part, which stands after |"),
        ("topk(k=4) | l1", "l1 is a term, which stands before |"),
        ("topk(k=4) | unit_nrm", "unknown part 'unit_nrm'; did you mean 'unit_norm'"),
        ("topk(k=4) @ crosscodr", "did you mean 'crosscoder'"),
        ("topk(k=4) @ crosscoder @ sae", "a method has one pairing"),
        ("topk_crosscoder(k=4) @ transcoder", "stands in the name and transcoder after @"),
        ("topk(k=4) - l1", "there is no term l1 to take away; the method has reconstruction, auxk"),
        ("topk(k=4) | - fixed", "there is no constraint fixed to take away"),
        ("topk(k=4) | - tied", "tied cannot be taken away"),
        ("relu + l1(norm='decodr')", "norm='decodr', it must be 'none' or 'decoder' or 'sources'"),
        ("relu + l1(0.1, weight=0.2)", "l1 is given weight twice"),
        ("relu + l1(0.1, 'none', 'code', 7)", "l1 takes 3 arguments, 4 are given"),
        ("relu + l1(nrm='none')", "nrm is unknown; did you mean 'norm'"),
        ("relu + l1(rmp(0.0, 1.0))", "unknown schedule 'rmp'; did you mean 'ramp'"),
        ("relu + l1(norm=none)", "unknown schedule 'none'; a word stands in quotes"),
        ("jumprelux", "did you mean 'jumprelu'"),
        ("topk(k=True)", "k=True, it must be int"),
        ("topk(k=os.system('x'))", "cannot read"),
        ("topk(k=4) * l1", "cannot read"),
        ("'topk'", "cannot read"),
        ("", "cannot read"),
        ("topk(**{'k': 4})", "cannot read"),
    ],
)
def test_what_is_wrong_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message.replace("|", r"\|").replace("(", r"\(")):
        method(text)


def test_an_argument_without_a_default_is_asked_for() -> None:
    @dataclass(frozen=True)
    class Share(ReLU):
        share: float

    ACTIVATIONS.add("share", Share)
    try:
        assert method("share(0.5)").spec == "share(share=0.5)"
        with pytest.raises(ArgumentError, match="share is missing; give it, as share="):
            method("share")
    finally:
        del ACTIVATIONS._items["share"]


def test_a_method_that_text_cannot_say_is_refused() -> None:
    class Unregistered(Activation):
        pass

    with pytest.raises(ArgumentError, match="two terms of one kind"):
        text_of(Method(ReLU(), (Reconstruction(), L1(0.1), L1(0.2))))
    with pytest.raises(ArgumentError, match="Unregistered is no registered activation"):
        text_of(Method(Unregistered()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[method.topk]\nk = 4\n[method.relu]", "names 2 methods"),
        ("[terms.l1]", "names 0 methods"),
        ("method = 'topk'", "tables, one a name"),
        ("[method.topk]\n[penalties.l1]", "holds penalties"),
        ("[method.topk", "cannot be read as TOML"),
        ("[method.topk]\nk = { ramp = 3 }", "ramp stands where a value belongs"),
        ("[method.topk]\nq = 4", "q is unknown"),
        ("[method.topk]\n[terms.orto]", "did you mean 'ortho'"),
    ],
)
def test_a_wrong_table_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=message):
        method(str(path))
    with pytest.raises(ArgumentError, match=r"absent\.toml"):
        method(str(tmp_path / "absent.toml"))


def test_names_of_parts_are_names_of_one_kind_only() -> None:
    """Behind | a name tells its kind; a head ends in no pairing of another name."""
    names = [*CONSTRAINTS, *ENCODERS, *DICTIONARIES, *OPTIMISERS, "init", "pre_bias", "resample", "anchoring"]
    assert len(set(names)) == len(names)
    assert not set(names) & set(TERMS)
    with pytest.raises(UnknownNameError):
        method("no_such")


def test_a_schedule_of_ones_own_stands_where_a_weight_stands() -> None:
    @dataclass(frozen=True)
    class Pulse(Course):
        height: float

        def at(self, step: int, steps: int) -> float:
            return self.height * (step % 2)

    SCHEDULES.add("pulse", Pulse)
    try:
        made = method("relu_l1(l1=pulse(0.5))")
        assert made.terms[1].weight == Pulse(0.5)
        assert method(made.spec) == made
    finally:
        del SCHEDULES._items["pulse"]
