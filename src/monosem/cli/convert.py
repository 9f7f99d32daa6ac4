"""`monosem convert` and `monosem describe`: other libraries' files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import fail, say
from monosem.cli.options import Answer, command_of, opt
from monosem.cli.shared import Dictionary, quoted

_Scale = Annotated[
    float | None,
    opt("Factor by which training scaled the inputs. [default: what the file says]", "--input-scale"),
]


@dataclass(frozen=True)
class _ConvertOptions:
    """The options of `monosem convert`."""

    dictionary: Dictionary
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")]
    format: Annotated[str, opt("Format to write, such as saelens.", "--format", "-f")] = "monosem"
    input_scale: _Scale = None
    unchecked: Annotated[bool, opt("Take NaN, infinity and altered files as they are.", "--unchecked", more=True)] = (
        False
    )


@command_of(_ConvertOptions)
def convert(o: _ConvertOptions) -> Answer:
    """Rewrite a dictionary in another format, the same function; what a format cannot express is refused."""
    from monosem.interop import FORMATS, read, save

    chosen = FORMATS[o.format]
    if o.target.resolve() == o.dictionary.resolve():
        fail(f"OUT is DICTIONARY ({o.target}); write to another folder")
    loaded = read(o.dictionary, o.input_scale, unchecked=o.unchecked)
    save(loaded.model, o.target, o.format, loaded.metadata)
    for note in loaded.notes:
        say(note, "yellow")
    facts = {"dictionary": str(o.dictionary), "out": str(o.target), "from": loaded.format, "to": o.format}
    shown = f"{FORMATS[loaded.format].title} -> {chosen.title}: {o.target}"
    return Answer(facts | {"notes": list(loaded.notes)}, shown, quoted("monosem", "describe", o.target))


@dataclass(frozen=True)
class _DescribeOptions:
    """The options of `monosem describe`."""

    dictionary: Dictionary
    input_scale: _Scale = None
    weights: Annotated[bool, opt("Read the weights too, for their norms.", "--weights")] = False


@command_of(_DescribeOptions)
def describe(o: _DescribeOptions) -> Answer:
    """Say what a file holds, by its headers: kind, sizes, activation, the share of dead latents if known."""
    from monosem.cli.tables import values_table
    from monosem.interop import describe as description

    rows = dict(description(o.dictionary, o.input_scale, weights=o.weights).rows)
    return Answer(rows, values_table(rows))
