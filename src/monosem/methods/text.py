"""A method as text: `topk(k=32) + ortho(0.25) | unit_norm @ crosscoder(private=0.05)`, and back; the same as TOML.

    method  =  head { ("+" | "-") term }  [ "|" part { ("+" | "-") part } ]  [ "@" pairing ]

The head is a row of the literature's table or an activation; what follows edits it. `+` adds a term or a part, in place
of one of the same kind; `-` takes one away. A part is what makes, starts or holds the weights: a constraint, an
encoder, a dictionary, an optimiser, `init`, `pre_bias`, `resample`, `anchoring`. An argument is a literal or a
schedule; without a name it takes its place in the order that `monosem list` prints.

As TOML every call is a table, its arguments are the table's entries:

    [method.topk]               # the head
    k = 32
    [terms.ortho]               # what + adds
    weight = 0.25
    [parts.unit_norm]           # what stands after |
    [pairing.crosscoder]        # what stands after @
    private = 0.05

`without = ["auxk"]`, above the tables, takes away what the head has. A schedule is a table in place of a number:
`weight = { ramp = { start = 0.0, stop = 0.5 } }`.
"""

import inspect
import tomllib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from monosem.base.calls import REQUIRED, Call, Edit, arguments, construct, near, plain, read, read_call, resolved, tacit
from monosem.base.errors import ArgumentError, CheckpointError, UnknownNameError, check
from monosem.base.files import read_text
from monosem.base.literature import (
    AMEISEN_2025,
    DUNEFSKY_2024,
    LINDSEY_2024,
    MCDOUGALL_2025,
    PAULO_2025,
    TANG_2025,
    Citation,
)
from monosem.base.schedule import SCHEDULES
from monosem.core.activations import ACTIVATIONS, Activation
from monosem.core.pairs import PAIRINGS, Pairing
from monosem.losses.objective import TERMS
from monosem.methods.method import Method, paired
from monosem.methods.parts import KINDS, edited, pairing_of_text
from monosem.methods.recipes import METHODS, Recipe
from monosem.methods.spelling import Start, shortened, spell

PAIRING_SOURCES: dict[str, Citation] = {
    "skip_transcoder": PAULO_2025,
    "transcoder": DUNEFSKY_2024,
    "crosscoder": LINDSEY_2024,
    "cross_layer": AMEISEN_2025,
    "weakly_causal": MCDOUGALL_2025,
}


def _split(name: str) -> tuple[str, str]:
    """The row and the pairing: topk_transcoder is (topk, transcoder); a row alone keeps its own pairing, mostly SAE."""
    if name not in METHODS:
        for form in sorted(PAIRINGS, key=len, reverse=True):
            if name.endswith(f"_{form}"):
                return name.removesuffix(f"_{form}"), form
    return name, ""


def recipe_of(text: str) -> tuple[Recipe, Citation | None]:
    """The table row behind a method's text, and its pairing's citation."""
    head, edits = read(text)
    name, form = _split(head.name)
    form = next((edit.call.name for edit in edits if edit.section == "pairing"), form)
    return _row(name), PAIRING_SOURCES.get(form)


def _row(name: str) -> Recipe:
    """A row of the table; an activation alone is one too: itself and the reconstruction.

    Raises: UnknownNameError, with a suggestion.
    """
    if name in METHODS:
        return METHODS[name]
    if name in ACTIVATIONS:
        return _bare(ACTIVATIONS[name])
    if not near(name, list(METHODS)) and (hint := near(name, list(ACTIVATIONS))):
        raise UnknownNameError(f"unknown method {name!r}{hint}")
    return METHODS[name]


def _bare(kind: type[Activation]) -> Recipe:
    """An activation as a row, with the activation's own arguments."""

    def make(**given: Any) -> Method:
        return Method(kind(**given))

    make.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
    make.__annotations__ = kind.__init__.__annotations__
    return Recipe(make, (kind.__doc__ or kind.__name__).partition(".")[0], TANG_2025)


NUMERICS: dict[str, int] = {"batch_topk": 2, "matryoshka": 2, "lista": 2}
"""The version of a method's numerics, by its row of METHODS; 1 where it is not named.

Raise it when a change of code gives other bits for the same run on the same machine: records carry the version that
made them, and what an older one made is printed as such.
"""


def numerics(text: str) -> int:
    """The version of the numerics behind a method's text.

    Example:
        >>> numerics("topk_transcoder(k=4)")
        1
    """
    return NUMERICS.get(_split(read(text)[0].name)[0], 1)


def brief(text: str, others: Sequence[str] = ()) -> str:
    """A method's text with those arguments alone that are no defaults, or in which the other texts differ.

    Example:
        >>> brief("topk(k=8, aux=0.03125) + l1(weight=0.1, norm='decoder', on='code')")
        'topk(k=8) + l1(weight=0.1)'
    """
    head, edits = read(text)
    try:
        usual = _row(_split(head.name)[0]).defaults
    except ArgumentError:  # a method of another version, or of a plug-in
        usual = {}
    return shortened(head, edits, usual, [read(other)[0] for other in others])


def method(text: str, **overrides: Any) -> Method:
    """A method by its text, or by a TOML file that says the same.

    "topk(k=32)", "relu_l1_transcoder(l1=0.5)", "jumprelu(l0=to_l0(20))", "topk(32) + ortho(0.25) | aligned @
    crosscoder(private=0.05)". The grammar stands at the top of this module and in docs/methods.md. The method's `spec`
    is its canonical text, with every argument, and reads back.
    Raises: UnknownNameError with a suggestion; ArgumentError for an unknown or ill-typed argument.
    Example:
        >>> method("relu + l1(0.5)").spec
        "relu + l1(weight=0.5, norm='decoder', on='code')"
    """
    if text.endswith(".toml"):
        head, edits = _read_toml(Path(text))
    else:
        head, edits = read(text)
    return _composed(replace(head, named=head.named | overrides), edits)


def _composed(head: Call, edits: Sequence[Edit]) -> Method:
    """The method of a head and its edits, with its canonical text."""
    row, form = _split(head.name)
    named = {name: value for name, value in head.named.items() if name not in KINDS}
    kinds = [head.named[name] for name in KINDS if name in head.named]  # topk(k=4, dictionary='tied') says a part too
    parts = [Edit("parts", kind if isinstance(kind, Call) else read_call(str(kind))) for kind in kinds]
    start = _start(
        Call(row, head.positional, named), pairing_of_text(form, [e for e in edits if e.section == "pairing"])
    )
    built = start.method
    for edit in (*parts, *edits):
        if edit.section != "pairing":
            built = edited(built, edit)
    return replace(built, spec=spell(start, built))


def _start(head: Call, pairing: Pairing | None) -> Start:
    """The head's row for a pairing, before any edit.

    Arguments are those of the row and, beside them, those of its activation.
    """
    recipe, what = _row(head.name), f"the method {head.name}"
    sigma = _arguments_of_activation(recipe)
    known = list(dict.fromkeys((*recipe.defaults, *sigma)))
    given = {name: resolved(value, SCHEDULES) for name, value in head.bound(known, head.name).items()}
    own = {name: given.get(name, default) for name, default in recipe.defaults.items()}
    made: Method = construct(recipe.make, _given(own), SCHEDULES, what)
    more = {name: value for name, value in given.items() if name not in own}
    if more:
        now = {name: getattr(made.activation, name) for name in sigma}
        own |= {name: value for name, value in more.items() if now[name] != value}
        made = replace(made, activation=construct(type(made.activation), now | more, SCHEDULES, what))
    named = {name: plain(value, SCHEDULES) for name, value in own.items() if _said(head.name, name, made)}
    return Start(Call(head.name, named=named), made if pairing is None else paired(made, pairing), made.pairing)


def _given(arguments_by_name: dict[str, Any]) -> dict[str, Any]:
    """Arguments that have a value."""
    return {name: value for name, value in arguments_by_name.items() if value is not REQUIRED}


def _arguments_of_activation(recipe: Recipe) -> dict[str, Any]:
    """What a row's activation takes; nothing for a row that is an activation, whose arguments are its own."""
    if REQUIRED in recipe.defaults.values():
        return {}
    return arguments(type(recipe.make().activation))


def _said(row: str, name: str, made: Method) -> bool:
    """Whether the text names an argument: a bare activation leaves out what goes without saying."""
    return row in METHODS or not tacit(made.activation, name)


def text_of(chosen: Method) -> str:
    """The text of a method, however it was made. Raises: ArgumentError for one that text cannot say.

    Example:
        >>> from monosem.core.activations import TopK
        >>> text_of(Method(TopK(4)))
        'topk(k=4, aux=0.03125) - auxk'
    """
    head = _head_of(chosen)
    start = _start(head, chosen.pairing)
    sigma = {field.name for field in fields(chosen.activation)}
    changed = {
        n: getattr(chosen.activation, n)
        for n in sigma
        if getattr(start.method.activation, n) != getattr(chosen.activation, n)
    }
    text = spell(_start(replace(head, named=head.named | changed), chosen.pairing), chosen)
    check(
        replace(method(text), spec="") == replace(chosen, spec=""),
        f"this method has no text: {text!r} is the nearest, but it differs from it (two terms of one kind, perhaps)",
    )
    return text


def _head_of(chosen: Method) -> Call:
    """The head that a method was read with or, where its activation is another by now, the activation's name."""
    kind = type(chosen.activation)
    if chosen.spec:
        head = read(chosen.spec)[0]
        head = replace(head, name=_split(head.name)[0])
        if type(_start(head, None).method.activation) is kind:
            return head
    for name, known in ACTIVATIONS.items():
        if known is kind:
            required = [key for key, default in arguments(kind).items() if default is REQUIRED]
            return Call(name, named={key: getattr(chosen.activation, key) for key in required})
    raise ArgumentError(f"{kind.__name__} is no registered activation; register it to name it in text")


_TABLES = ("method", "terms", "parts", "pairing")


def _read_toml(path: Path) -> tuple[Call, tuple[Edit, ...]]:
    """The head and the edits that a file says. Raises: ArgumentError for a file that says no method."""
    try:
        plain = tomllib.loads(read_text(path))
    except (CheckpointError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ArgumentError(f"{path} cannot be read as TOML: {error}") from None
    unknown = sorted(set(plain) - {*_TABLES, "without"})
    check(not unknown, f"{path} holds {', '.join(unknown)}; a method has {', '.join(_TABLES)} and 'without'")
    heads = _calls(plain, "method", path)
    check(len(heads) == 1, f"{path} names {len(heads)} methods; one table [method.NAME] belongs there")
    away = [Call(str(name)) for name in plain.get("without", ())]
    edits = [Edit("terms" if call.name in TERMS else "parts", call, remove=True) for call in away]
    for section in ("terms", "parts", "pairing"):
        edits += [Edit(section, call) for call in _calls(plain, section, path)]
    return heads[0], tuple(edits)


def _calls(plain: dict[str, Any], section: str, path: Path) -> list[Call]:
    tables = plain.get(section, {})
    good = isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())
    check(good, f"{path}: [{section}] holds tables, one a name, as [{section}.NAME]")
    return [Call(name, named={key: _value(value) for key, value in table.items()}) for name, table in tables.items()]


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        check(
            len(value) == 1, f"{value} stands where a value belongs; a schedule is one name, as {{ ramp = {{ ... }} }}"
        )
        ((name, inside),) = value.items()
        check(
            isinstance(inside, dict), f"{name} stands where a value belongs; give its arguments, as {{ {name} = {{}} }}"
        )
        return Call(name, named={key: _value(item) for key, item in inside.items()})
    return tuple(map(_value, value)) if isinstance(value, list) else value
