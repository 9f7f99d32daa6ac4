"""What an edit of a method's text does: a term or a part, put in or out."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from monosem.anchors.term import Anchoring
from monosem.base.calls import Call, Edit, arguments, build, construct, near
from monosem.base.errors import UnknownNameError, check
from monosem.base.registry import Registry
from monosem.base.schedule import SCHEDULES
from monosem.core.constraints import CONSTRAINTS
from monosem.core.dictionaries import DICTIONARIES
from monosem.core.encoders import ENCODERS
from monosem.core.init import Init
from monosem.core.model import PreBias
from monosem.core.pairs import PAIRINGS, Crosscoder, Pairing, WeaklyCausal
from monosem.losses.objective import TERMS
from monosem.losses.resample import Resample
from monosem.methods.method import Method
from monosem.methods.optimisers import OPTIMISERS

KINDS: dict[str, Registry[Any]] = {"encoder": ENCODERS, "dictionary": DICTIONARIES, "optimiser": OPTIMISERS}
"""Parts of which a method has exactly one, by the field of Method that holds it."""


def pre_bias(kind: PreBias) -> PreBias:
    """What is subtracted from x_p: nothing ("none"), a bias of its own ("free") or b_D ("tied")."""
    return kind


SETTINGS: dict[str, Callable[..., Any]] = {
    "init": Init,
    "pre_bias": pre_bias,
    "resample": Resample,
    "anchoring": Anchoring,
}
"""Parts that are no registered kind, by name, which is the field of Method too."""


def part_names() -> list[str]:
    """The name of every part."""
    return [*CONSTRAINTS, *(name for registry in KINDS.values() for name in registry), *SETTINGS]


def edited(base: Method, edit: Edit) -> Method:
    """The method after an edit. Raises: UnknownNameError, ArgumentError, with the remedy."""
    name = edit.call.name
    if edit.section == "terms":
        return _term(base, edit)
    if name in CONSTRAINTS:
        return replace(base, constraints=_listed(base.constraints, edit, CONSTRAINTS, "constraint"))
    if name in SETTINGS:
        return _setting(base, edit)
    check(not (edit.remove and name in part_names()), f"{name} cannot be taken away; give another in its place")
    for part, registry in KINDS.items():
        if name in registry:
            return replace(base, **{part: build(edit.call, registry, SCHEDULES)})
    hint = near(name, part_names()) or f"; known: {', '.join(part_names())}"
    also = f"; {name} is a term, which stands before |" if name in TERMS else hint
    raise UnknownNameError(f"unknown part {name!r}{also}")


def _term(base: Method, edit: Edit) -> Method:
    """A term more, in place of one of its kind, or less."""
    call = edit.call
    if call.name not in TERMS and call.name in part_names():
        raise UnknownNameError(f"unknown term {call.name!r}; it is a part, which stands after |")
    crosses = isinstance(base.pairing, Crosscoder | WeaklyCausal) and not edit.remove
    if crosses and _weighs_by_norm(call):  # as `paired` does with the terms of the head
        edit = replace(edit, call=replace(call, named=call.named | {"norm": "sources"}))
    return replace(base, terms=_listed(base.terms, edit, TERMS, "term"))


def _weighs_by_norm(call: Call) -> bool:
    """Whether a term weighs latents by decoder norms, and the text leaves open by which."""
    known = arguments(TERMS[call.name])
    return known.get("norm") == "decoder" and "norm" not in call.bound(list(known), call.name)


def _listed(now: tuple[Any, ...], edit: Edit, registry: Registry[Any], what: str) -> tuple[Any, ...]:
    """A tuple of registered values after an edit."""
    kind = registry[edit.call.name]
    if edit.remove:
        rest = tuple(item for item in now if type(item) is not kind)
        has = ", ".join(item.name for item in now) or "none"
        check(len(rest) < len(now), f"there is no {what} {edit.call.name} to take away; the method has {has}")
        return rest
    return placed(now, build(edit.call, registry, SCHEDULES))


def same_place(a: Any, b: Any) -> bool:
    """Whether one stands where the other stood: of one kind, or both the term that asks for all of x_r."""
    return type(a) is type(b) or (getattr(a, "whole", False) and getattr(b, "whole", False))


def placed(items: tuple[Any, ...], new: Any) -> tuple[Any, ...]:
    """`new` in the place of the first that it replaces, else at the end."""
    place = next((i for i, item in enumerate(items) if same_place(item, new)), None)
    if place is None:
        return (*items, new)
    return (*items[:place], new, *(item for item in items[place + 1 :] if not same_place(item, new)))


def _setting(base: Method, edit: Edit) -> Method:
    """A setting with some of its arguments changed; resampling can be taken away."""
    name = edit.call.name
    if edit.remove:
        check(name == "resample", f"{name} cannot be taken away; give another in its place")
        return replace(base, resample=None)
    make, now = SETTINGS[name], getattr(base, name)
    given = edit.call.bound(list(arguments(make)), name)
    if now is not None and name != "pre_bias":
        given = {key: getattr(now, key) for key in arguments(make)} | given
    return replace(base, **{name: construct(make, given, SCHEDULES, name)})


def pairing_of_text(form: str, edits: list[Edit]) -> Pairing | None:
    """The pairing of a suffix, or after @; None where the text says none."""
    if not edits:
        return PAIRINGS[form] if form else None
    check(len(edits) == 1 and not edits[0].remove, "a method has one pairing; write it once, as '@ crosscoder'")
    check(not form, f"the pairing {form} stands in the name and {edits[0].call} after @; write one of them")
    call = edits[0].call
    preset = PAIRINGS[call.name]
    known = {field.name: getattr(preset, field.name) for field in fields(preset)}
    given = known | call.bound(list(known), call.name)
    made: Pairing = construct(type(preset), given, SCHEDULES, f"the pairing {call.name}")
    return made
