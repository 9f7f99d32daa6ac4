"""From a method to its text: what differs from the method of its head, every argument named."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from monosem.base.calls import Call, Edit, Section, arguments, call_of, plain, read, spoken
from monosem.base.registry import Registry
from monosem.base.schedule import SCHEDULES
from monosem.core.activations import ACTIVATIONS
from monosem.core.constraints import CONSTRAINTS
from monosem.core.pairs import PAIRINGS, Pairing
from monosem.losses.objective import TERMS
from monosem.methods.method import Method
from monosem.methods.parts import KINDS, SETTINGS, placed, same_place


@dataclass(frozen=True)
class Start:
    """A head with all its arguments, its method for a pairing, and the pairing of its row."""

    head: Call
    method: Method
    pairing: Pairing


def spell(start: Start, built: Method) -> str:
    """The canonical text of a method that began as `start`."""
    edits = _changes("terms", start.method.terms, built.terms, TERMS)
    edits += _changes("parts", start.method.constraints, built.constraints, CONSTRAINTS)
    for part, registry in KINDS.items():
        if getattr(built, part) != getattr(start.method, part):
            edits.append(Edit("parts", call_of(getattr(built, part), registry, SCHEDULES)))
    edits += [_setting(name, getattr(built, name)) for name in SETTINGS if _differ(start.method, built, name)]
    if built.pairing == start.pairing:
        return _joined(start.head, edits)
    name, pairing = _named_pairing(built.pairing)
    return _joined(replace(start.head, name=start.head.name + ("" if pairing else f"_{name}")), [*edits, *pairing])


def _differ(one: Method, other: Method, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def _setting(name: str, now: Any) -> Edit:
    """A setting as an edit."""
    if now is None:
        return Edit("parts", Call(name), remove=True)
    if name == "pre_bias":
        return Edit("parts", Call(name, named={"kind": now}))
    named = {key: plain(getattr(now, key), SCHEDULES) for key in arguments(SETTINGS[name])}
    return Edit("parts", Call(name, named=named))


def _named_pairing(pairing: Pairing) -> tuple[str, list[Edit]]:
    """The name of a pairing and, where its arguments are not the name's own, how it stands after @."""
    for name, preset in PAIRINGS.items():
        if preset == pairing:
            return name, []
    name = next(name for name, preset in PAIRINGS.items() if type(preset) is type(pairing))
    named = {field.name: getattr(pairing, field.name) for field in fields(pairing)}
    return name, [Edit("pairing", Call(name, named=named))]


def _changes(section: Section, start: Sequence[Any], built: Sequence[Any], registry: Registry[Any]) -> list[Edit]:
    """What brings one list to the other: taken away, put in place, put at the end; all anew where the order differs."""
    gone = [a for a in start if not any(same_place(a, b) for b in built)]
    new = [b for b in built if b not in start]
    after = tuple(a for a in start if a not in gone)
    for b in new:
        after = placed(after, b)
    if after != tuple(built):
        gone, new = list(start), list(built)
    edits = [Edit(section, Call(call_of(a, registry, SCHEDULES).name), remove=True) for a in gone]
    return edits + [Edit(section, call_of(b, registry, SCHEDULES)) for b in new]


_OPENING = {"parts": "|", "pairing": "@", "terms": "+"}


def _joined(head: Call, edits: Sequence[Edit]) -> str:
    """A head and its edits as text."""
    text, section = str(head), "terms"
    for edit in edits:
        sign = _sign(edit) if edit.section == section else _OPENING[edit.section] + " -" * edit.remove
        text += f" {sign} {edit.call}"
        section = edit.section
    return text


def _sign(edit: Edit) -> str:
    return "-" if edit.remove else "@" if edit.section == "pairing" else "+"


def name_of(text: str) -> str:
    """A method's name without arguments, for labels.

    Example:
        >>> name_of("topk_crosscoder(k=4) + ortho(0.1)")
        'topk_crosscoder+ortho'
    """
    head, edits = read(text)
    return head.name + "".join(f"{_sign(edit)}{edit.call.name}" for edit in edits)


def made_of(method: Method) -> str:
    """What a method is made of by name: activation, terms and, after |, parts that are not the usual ones.

    Example:
        >>> from monosem.core.activations import TopK
        >>> made_of(Method(TopK(4), constraints=()))
        'topk + reconstruction | - unit_norm'
    """
    usual = Method(method.activation)
    sigma = call_of(method.activation, ACTIVATIONS, SCHEDULES).name
    kinds = [(getattr(method, part), getattr(usual, part), registry) for part, registry in KINDS.items()]
    parts = [call_of(mine, registry, SCHEDULES).name for mine, its, registry in kinds if mine != its]
    parts += [each.name for each in method.constraints if each not in usual.constraints]
    parts += [f"- {each.name}" for each in usual.constraints if each not in method.constraints]
    terms = " + ".join([sigma, *(term.name for term in method.terms)])
    return terms + " | " * bool(parts) + " + ".join(parts).replace("+ - ", "- ")


def shortened(head: Call, edits: Sequence[Edit], usual: dict[str, Any], others: Sequence[Call]) -> str:
    """A text with those arguments alone that are not the usual ones, or in which other heads differ."""
    named = {
        name: value
        for name, value in head.named.items()
        if usual.get(name) != value or any(other.named.get(name) != value for other in others)
    }
    return _joined(replace(head, named=named), [replace(edit, call=_shortened(edit.call)) for edit in edits])


def _shortened(call: Call) -> Call:
    registries: list[Registry[Any]] = [TERMS, CONSTRAINTS, *KINDS.values()]
    for registry in registries:
        if call.name in registry:
            usual = {name: plain(value, SCHEDULES) for name, value in arguments(registry[call.name]).items()}
            return spoken(call, usual)
    return spoken(call, arguments(SETTINGS[call.name])) if call.name in SETTINGS else call
