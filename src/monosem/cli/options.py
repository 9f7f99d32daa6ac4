"""Commands made of dataclasses: options are their fields, and each command answers in words or in JSON."""

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from rich.console import RenderableType
from rich.text import Text
from typer.core import TyperCommand

from monosem.cli.console import fail, out, quietly, say

_Options = TypeVar("_Options")
COMMON = frozenset(["config_file", "print_config", "as_json", "quiet", "help_all", "help"])
"""Options of every command; they are no part of a configuration."""


_MAY_BE_EMPTY = frozenset(["--prompt", "--title"])


@dataclass(frozen=True)
class Answer:
    """What a command has to say: facts for --json, what a person sees, and the command that follows from it."""

    facts: Mapping[str, Any]
    shown: RenderableType
    next: str = ""
    code: int = 0


@dataclass(frozen=True)
class Group:
    """How the fields of a dataclass of the library become options.

    `help` has a text for each field that is offered; the others keep their defaults. `shown` are those of the first
    screen, the rest follow in --help-all; `names` are options that are not called as their field, `defaults` those that
    a command sets otherwise.
    """

    panel: str
    help: Mapping[str, str]
    shown: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def opt(help: str, *names: str, panel: str | None = None, more: bool = False, complete: str = "") -> Any:
    """An option; `more`: shown by --help-all only; `complete`: the catalogue's list that a shell completes from."""
    completion = (lambda: listed(complete)) if complete else None
    return typer.Option(*names, help=help, rich_help_panel=panel, hidden=more, autocompletion=completion)


@cache
def catalogue() -> dict[str, list[dict[str, str]]]:
    """What the registries hold, from the file that ships: lists of entries with their `name`."""
    text = files("monosem.cli").joinpath("catalog.json").read_text(encoding="utf-8")
    lists: dict[str, list[dict[str, str]]] = json.loads(text)
    return lists


def listed(what: str) -> list[str]:
    """The names of a list, as a shell completes them."""
    return [entry["name"] for entry in catalogue()[what]]


def command_of(kind: type[_Options]) -> Callable[[Callable[[_Options], Answer]], Callable[..., None]]:
    """A command whose options are the fields of a dataclass, and which is called with one of these.

    A field that is itself a dataclass gives its own fields. Every command also takes --config, --print-config, --json
    and --quiet.
    """

    def decorate(run: Callable[[_Options], Answer]) -> Callable[..., None]:
        parameters = [*_parameters(kind), *_common()]

        def command(*, as_json: bool, quiet: bool, **options: Any) -> None:
            with quietly(quiet):
                _print(run(_build(kind, options)), as_json)

        command.__name__, command.__doc__, command.__module__ = run.__name__.strip("_"), run.__doc__, run.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def add(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Put a command of `command_of` into an app."""
    app.command(name, cls=_Command)(command)


class _Command(TyperCommand):
    """A command that prints its configuration without being given what it requires."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; with --print-config nothing is required."""
        for before, word in zip(["the first argument", *args], args, strict=False):
            if not word and before not in _MAY_BE_EMPTY:
                fail(f"{before} is followed by an empty word; leave both out, or write what is meant")
        required = [p for p in self.params if p.required] if "--print-config" in args else []
        try:
            for parameter in required:
                parameter.required = False
            words = list(args)  # the parser eats its own
            rest = super().parse_args(ctx, args)
            _check_numbers(self.params, ctx.params)
            return rest
        except Exception as error:
            _name_value(error, ctx, words)
            raise
        finally:
            for parameter in required:
                parameter.required = True

    def invoke(self, ctx: Any) -> Any:
        """Run the command, or print its configuration."""
        return typer.echo(_toml(ctx)) if ctx.params.get("print_config") else super().invoke(ctx)


def _name_value(error: Any, ctx: Any, words: list[str]) -> None:
    """What the parser refuses is of this command, and says what it read."""
    if getattr(error, "ctx", ctx) is None:
        error.ctx = ctx
    parameter = getattr(error, "param", None)
    if type(error) is not typer.BadParameter or parameter is None:
        return
    defaults: Mapping[str, Any] = ctx.default_map or {}
    given = [*_values_of(parameter.opts, words), defaults.get(parameter.name)]
    kinds = {"a valid integer": "no whole number", "a valid number": "no number"}
    kind = next((mine for theirs, mine in kinds.items() if theirs in error.message), None)
    error.message = f"{given[0]!r} is {kind}" if kind else f"{given[0]!r}: {error.message}"


def _values_of(names: list[str], words: list[str]) -> Iterator[str]:
    """What follows an option among the words of a command."""
    for word, follows in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            yield value if equals else follows


def _check_numbers(parameters: list[Any], values: Mapping[str, Any]) -> None:
    """Refuse what is no number, and seeds below 0."""
    for parameter in parameters:
        value = values.get(parameter.name)
        for number in value if isinstance(value, tuple | list) else (value,):
            name = max(parameter.opts, key=len)
            if isinstance(number, float) and not math.isfinite(number):
                fail(f"{name} {number} is no finite number")
            if parameter.name in ("seed", "world") and number is not None and number < 0:
                fail(f"{name} {number}; it must be at least 0")


def _leaves(kind: Any) -> list[tuple[str, Any, Any]]:
    """(name, annotation, default) of every option that a dataclass asks for, those of its own dataclasses included."""
    leaves, hints = [], get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        hint, group = hints[one.name], _group(hints[one.name])
        inner = get_args(hint)[0] if group else hint
        if is_dataclass(inner):
            leaves += _of_library(inner, group) if group else _leaves(inner)
            continue
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        leaves.append((one.name, hint, inspect.Parameter.empty if default is MISSING else default))
    return leaves


def _group(hint: Any) -> Group | None:
    return next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Group)), None)


def _of_library(kind: Any, group: Group) -> list[tuple[str, Any, Any]]:
    """Options for a dataclass of the library, and for the dataclasses that it holds."""
    leaves: list[tuple[str, Any, Any]] = []
    hints = get_type_hints(kind)
    for one in fields(kind):
        if is_dataclass(hints[one.name]):
            leaves += _of_library(hints[one.name], group)
        elif one.name in group.help:
            names = (group.names[one.name],) if one.name in group.names else ()
            info = opt(group.help[one.name], *names, panel=group.panel, more=one.name not in group.shown)
            leaves.append((one.name, Annotated[hints[one.name], info], group.defaults.get(one.name, one.default)))
    return leaves


def _parameters(kind: Any) -> list[inspect.Parameter]:
    leaves = _leaves(kind)
    names = [name for name, _, _ in leaves]
    assert len(names) == len(set(names)), f"{kind.__name__}: two options have one name"
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, keyword, default=default, annotation=hint) for name, hint, default in leaves]


def _build(kind: Any, options: dict[str, Any]) -> Any:
    """The dataclass with the options that are its own, and with the dataclasses that it holds."""
    hints, given = get_type_hints(kind, include_extras=True), {}
    for one in fields(kind):
        inner = get_args(hints[one.name])[0] if _group(hints[one.name]) else hints[one.name]
        if is_dataclass(inner):
            given[one.name] = _build(inner, options)
        elif one.name in options:
            given[one.name] = options[one.name]
    return kind(**given)


def _common() -> list[inspect.Parameter]:
    """The options that every command has."""
    config = typer.Option("--config", help="Options from a TOML file; those given here win.", callback=_read_config,
                          is_eager=True, show_default=False)  # fmt: skip
    everything = typer.Option("--help-all", help="Show every option and exit.", callback=_help_all, is_eager=True)
    options = (
        ("config_file", Annotated[Path | None, config], None),
        ("print_config", Annotated[bool, opt("Print these options as TOML.", "--print-config", more=True)], False),
        ("as_json", Annotated[bool, opt("Print the result as JSON.", "--json")], False),
        ("quiet", Annotated[bool, opt("Show no messages and no progress.", "--quiet", more=True)], False),
        ("help_all", Annotated[bool, everything], False),
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, keyword, default=default, annotation=hint) for name, hint, default in options]


def _help_all(ctx: Any, wanted: bool) -> None:
    """The help with the options that its first screen leaves out."""
    if not wanted or ctx.resilient_parsing:
        return
    parameters: list[Any] = [p for p in ctx.command.params if getattr(p, "hidden", False)]
    try:
        for parameter in parameters:
            parameter.hidden = False
        typer.echo(ctx.get_help(), nl=False)
    finally:
        for parameter in parameters:
            parameter.hidden = True
    raise typer.Exit


def _written(parameter: Any) -> str:
    """A parameter's name in a configuration: n_q for --n-q."""
    longest = max(parameter.opts, key=len) if parameter.opts else parameter.name
    return str(longest).lstrip("-").replace("-", "_")


def _read_config(ctx: Any, path: Path | None) -> Path | None:
    """Take a file's values as this call's defaults."""
    if path is None or ctx.resilient_parsing:
        return path
    known = {_written(p): p for p in ctx.command.params if p.name not in COMMON}
    ctx.default_map = {}
    for name, value in _toml_values(path).items():
        parameter = known.get(name.replace("-", "_"))
        if isinstance(value, dict):
            fail(f"--config {path}: {name} is a table; write the options at the top")
        if parameter is None:
            fail(f"--config {path}: {ctx.info_name} has no option {name!r}; it has {', '.join(known)}")
        ctx.default_map[parameter.name] = _several(parameter, f"--config {path}: {name}", value)
    return path


def _several(parameter: Any, where: str, value: Any) -> Any:
    """A configuration's value as the option takes it: a list where it takes several."""
    several = parameter.multiple or parameter.nargs != 1
    if isinstance(value, list) and not several:
        fail(f"{where} is a list; give one value")
    return [value] if several and not isinstance(value, list) else value


def _toml_values(path: Path) -> dict[str, Any]:
    import tomllib

    from monosem.base.files import read_text

    if not path.is_file():
        fail(f"--config {path} is no file; --print-config prints one")
    try:
        return tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        fail(f"--config {path} is not readable TOML ({error})")


def _toml(ctx: Any) -> str:
    """A command's options as --config reads them, each under its help; those without a value are comments."""
    lines = [f"# {ctx.command_path} --config FILE"]
    for parameter in ctx.command.params:
        if parameter.name in COMMON:
            continue
        value = _toml_value(ctx.params.get(parameter.name))
        line = f"{_written(parameter)} = {value}" if value else f"# {_written(parameter)} ="
        lines += ["", f"# {parameter.help}", line]
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    """A value as TOML writes it; "" for none."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]" if value else ""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else repr(value) if isinstance(value, int | float) else json.dumps(str(value))


def _print(answer: Answer, as_json: bool) -> None:
    """The result to standard output, what follows from it to standard error."""
    if as_json:
        facts = dict(answer.facts) | ({"next": answer.next} if answer.next else {})
        typer.echo(json.dumps(_finite(facts), indent=1, sort_keys=True, allow_nan=False, default=str))
    elif answer.shown != "":
        out().print(answer.shown, soft_wrap=isinstance(answer.shown, str | Text), markup=False)
    if answer.next:
        say(f"next: {answer.next}", "dim")
    if answer.code:
        raise typer.Exit(answer.code)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
