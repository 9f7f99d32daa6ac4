"""The page of latents: one HTML file that needs nothing else, for looking at what each latent fires on."""

from collections.abc import Callable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from monosem.anchors.directions import Anchors
from monosem.base.files import write_atomic
from monosem.base.machine import package_version
from monosem.core.model import SDL
from monosem.inspect.collect import Options, collect
from monosem.inspect.data import anchored, page_data
from monosem.inspect.rows import Rows
from monosem.networks.logits import LogitEffect

_SCRIPTS = ("inspect_data.js", "inspect_list.js", "inspect_detail.js")


def inspect_page(
    model: SDL,
    rows: Rows,
    options: Options | None = None,
    *,
    title: str = "Latents",
    method: str = "",
    effect: LogitEffect | None = None,
    anchors: Anchors | None = None,
    anchor_names: tuple[str, ...] = (),
    progress: Callable[[int], None] | None = None,
) -> str:
    """The page as text: every latent's firing rate, strongest contexts, histogram, classes and nearest latents.

    `method` says what trained the model; `effect` adds the tokens that latents promote; `anchors` marks the first
    latents, `anchor_names` names them. The rows pass once (`collect`); `progress` is called with the number done. The
    page is the same for the same input.
    Raises: ShapeError when rows, anchors or effect do not fit the model.

    Example:
        >>> import torch
        >>> from monosem import TensorSource
        >>> from monosem.methods import method
        >>> sdl, _ = method("topk(k=2)").build(6, (4,), (4,))
        >>> page = inspect_page(sdl, Rows(TensorSource(torch.randn(100, 4))), title="Six latents")
        >>> page.startswith("<!doctype html>"), "Six latents" in page
        (True, True)
    """
    anchored_latents = None if anchors is None else anchored(model, anchors, anchor_names)
    header = {"model": title, "method": method, "title_rows": rows.title, "monosem": package_version()}
    data = page_data(collect(model, rows, options, progress), rows, header, effect, anchored_latents)
    return Template(_resource("inspect.html")).substitute(
        title=escape(title),
        style=_resource("inspect.css"),
        data=data,
        script="\n".join(_resource(name) for name in _SCRIPTS),
    )


def write_inspect_page(path: str | Path, page: str) -> Path:
    """Write the page, whole or not at all."""
    return write_atomic(path, page.encode())


def _resource(name: str) -> str:
    return files("monosem.inspect").joinpath(name).read_text(encoding="utf-8")
