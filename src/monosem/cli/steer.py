"""`monosem steer`: a language model writes on with some latents edited, and without."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.cli.console import err, fail, out, set_threads

if TYPE_CHECKING:
    from monosem.networks.edits import Edit

_EDIT = re.compile(r"(?P<latents>\d+(?:,\d+)*)(?:=(?P<amount>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?))?")


def _parse_edits(**given: list[str] | None) -> "list[Edit]":
    """Edits as they are written: add "12=8", clamp "3,5=2", scale "7=0.5", zero "11"."""
    from monosem.networks import edits

    parsed = []
    for kind, texts in given.items():
        for text in texts or []:
            match = _EDIT.fullmatch(text.replace(" ", ""))
            amount = match and match["amount"]
            if match is None or (amount is None) != (kind == "zero"):
                example = "--zero 11" if kind == "zero" else f"--{kind} 12=8 or --{kind} 12,40=8"
                fail(f"cannot read --{kind} {text!r}; write latents{'' if kind == 'zero' else ' = number'}: {example}")
            latents = [int(number) for number in match["latents"].split(",")]
            if kind == "zero":
                parsed.append(edits.zero(latents))
            else:
                parsed.append(getattr(edits, kind)(latents, float(amount or 0)))
    return parsed


_Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A trained model.", show_default=False)]
_Add = Annotated[list[str] | None, typer.Option(help="Add to latents: 12=8, or 12,40=8.", show_default=False)]
_Clamp = Annotated[list[str] | None, typer.Option(help="Set latents: 12=8.", show_default=False)]
_Scale = Annotated[list[str] | None, typer.Option(help="Multiply latents: 12=0.5.", show_default=False)]
_Zero = Annotated[list[str] | None, typer.Option(help="Ablate latents: 12 or 12,40.", show_default=False)]
_Network = Annotated[
    str | None, typer.Option(help="Language model. [default: that of the model's store]", show_default=False)
]
_At = Annotated[str | None, typer.Option(help="Sites to read. [default: those of its store]", show_default=False)]
_To = Annotated[str | None, typer.Option(help="Sites to write, where they are others.", show_default=False)]


def steer(
    folder: _Model,
    prompt: Annotated[str, typer.Option(help="Text that the network continues.")] = "",
    add: _Add = None,
    clamp: _Clamp = None,
    scale: _Scale = None,
    zero: _Zero = None,
    network: _Network = None,
    at: _At = None,
    to: _To = None,
    tokens: Annotated[int, typer.Option(help="Number of tokens to write.")] = 60,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed, the same with and without the edits.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Torch threads.", show_default=False)] = None,
) -> None:
    """Continue a prompt with a language model, as it is and with latents added to, clamped, scaled or zeroed."""
    import torch

    from monosem.cli.evaluate import find_place
    from monosem.interop import load
    from monosem.networks.models import open_network
    from monosem.networks.steer import steer as steering

    edits = _parse_edits(add=add, clamp=clamp, scale=scale, zero=zero)
    if not edits:
        fail("no edit is given; write one as --add 12=8, --clamp 12=8, --scale 12=0.5 or --zero 12")
    if temperature < 0 or tokens < 1:
        fail(f"--temperature {temperature} and --tokens {tokens}; a temperature is at least 0, tokens at least 1")
    set_threads(threads)
    place, model = find_place(folder, network, at, to), load(folder)
    with err().status("reading the network"):
        language, tokenizer = open_network(place.network)
    if not hasattr(language, "generate"):
        fail(f"{place.network} is no language model; it cannot write")
    written = {}
    for name, chosen in (("as it is", []), ("steered", edits)):
        torch.manual_seed(seed)
        with torch.no_grad(), steering(language, model, place.at, *chosen, to=place.to):
            written[name] = _continued(language, tokenizer, prompt, tokens, temperature)
    for name, text in written.items():
        out().print(f"[bold]{name}[/bold]")
        out().print(text, markup=False, soft_wrap=True)


def _continued(language: Any, tokenizer: Any, prompt: str, tokens: int, temperature: float) -> str:
    from monosem.networks.devices import input_device, moved

    ids = moved(dict(tokenizer(prompt or (tokenizer.bos_token or ""), return_tensors="pt")), input_device(language))
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    )
    output = language.generate(
        ids["input_ids"],
        attention_mask=ids["attention_mask"],
        max_new_tokens=tokens,
        pad_token_id=tokenizer.pad_token_id or 0,
        **sampling,
    )
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(steer)
