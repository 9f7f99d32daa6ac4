"""`monosem steer`: a language model writes on with some latents edited, and without."""

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from rich.text import Text

from monosem.cli.console import fail, set_threads
from monosem.cli.evaluate import PlaceOptions
from monosem.cli.options import Answer, command_of, opt
from monosem.cli.shared import Dictionary, Threads

if TYPE_CHECKING:
    from monosem.networks.edits import Edit

_EDIT = re.compile(r"(?P<latents>\d+(?:,\d+)*)(?:=(?P<amount>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?))?")
_edit = partial(opt, panel="Edits, each may be repeated")


@dataclass(frozen=True)
class _SteerOptions:
    """The options of `monosem steer`."""

    dictionary: Dictionary
    place: PlaceOptions
    prompt: Annotated[str, opt("Text that the network continues.")] = ""
    tokens: Annotated[int, opt("Number of tokens to write.")] = 60
    temperature: Annotated[float, opt("Temperature of the sampling; 0 takes the likeliest token.")] = 0.0
    seed: Annotated[int, opt("Seed for the sampled tokens, the same with and without the edits.")] = 0
    add: Annotated[list[str] | None, _edit("Add to latents: 12=8, or 12,40=8.")] = None
    clamp: Annotated[list[str] | None, _edit("Set latents to a value: 12=8.")] = None
    scale: Annotated[list[str] | None, _edit("Multiply latents: 12=0.5.")] = None
    zero: Annotated[list[str] | None, _edit("Ablate latents: 12, or 12,40.")] = None
    threads: Threads = None

    @property
    def edits(self) -> "list[Edit]":
        """Edits as they are written: add "12=8", clamp "3,5=2", scale "7=0.5", zero "11"."""
        from monosem.networks import edits

        parsed = []
        for kind in ("add", "clamp", "scale", "zero"):
            for text in getattr(self, kind) or []:
                match = _EDIT.fullmatch(text.replace(" ", ""))
                amount = match and match["amount"]
                if match is None or (amount is None) != (kind == "zero"):
                    example = "--zero 11" if kind == "zero" else f"--{kind} 12=8 or --{kind} 12,40=8"
                    what = "latents" if kind == "zero" else "latents = number"
                    fail(f"cannot read --{kind} {text!r}; write {what}: {example}")
                latents = [int(number) for number in match["latents"].split(",")]
                amounts = () if kind == "zero" else (float(amount or 0),)
                parsed.append(getattr(edits, kind)(latents, *amounts))
        return parsed


@command_of(_SteerOptions)
def steer(o: _SteerOptions) -> Answer:
    """Continue a prompt with a language model, as it is and with latents added to, clamped, scaled or zeroed."""
    import torch

    from monosem.interop import load
    from monosem.networks.steer import steer as steering

    edits = o.edits
    if not edits:
        fail("no edit is given; write one as --add 12=8, --clamp 12=8, --scale 12=0.5 or --zero 12")
    if o.temperature < 0 or o.tokens < 1:
        fail(f"--temperature {o.temperature} and --tokens {o.tokens}; a temperature is at least 0, tokens at least 1")
    set_threads(o.threads)
    place, model = o.place.find(o.dictionary), load(o.dictionary, device=o.place.of.device)
    language, tokenizer = o.place.open(place)
    if not hasattr(language, "generate"):
        fail(f"{place.network} is no language model; it cannot write")
    written = {}
    for name, chosen in (("as it is", []), ("steered", edits)):
        torch.manual_seed(o.seed)
        with torch.no_grad(), steering(language, model, place.read, *chosen, to=place.write):
            written[name] = _continued(language, tokenizer, o)
    shown = [Text.assemble((f"{name}\n", "bold"), text) for name, text in written.items()]
    facts = {"dictionary": str(o.dictionary), "network": place.network, "prompt": o.prompt}
    return Answer(facts | {name.replace(" ", "_"): text for name, text in written.items()}, Text("\n").join(shown))


def _continued(language: Any, tokenizer: Any, o: _SteerOptions) -> str:
    from monosem.networks.devices import input_device, moved

    ids = moved(dict(tokenizer(o.prompt or (tokenizer.bos_token or ""), return_tensors="pt")), input_device(language))
    hot = o.temperature > 0
    sampling: dict[str, Any] = {"do_sample": True, "temperature": o.temperature} if hot else {"do_sample": False}
    output = language.generate(
        ids["input_ids"],
        attention_mask=ids["attention_mask"],
        max_new_tokens=o.tokens,
        pad_token_id=tokenizer.pad_token_id or 0,
        **sampling,
    )
    return str(tokenizer.decode(output[0], skip_special_tokens=True))
