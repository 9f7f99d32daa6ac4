"""The page of latents: one HTML file that needs nothing else; the numbers, texts and images it holds, packed."""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from monosem.anchors.directions import Anchors
from monosem.base.errors import ShapeError, check
from monosem.base.files import write_atomic
from monosem.base.sealed import sealed
from monosem.base.version import __version__
from monosem.core.model import SDL
from monosem.inspect.collect import Inspection, collect
from monosem.inspect.fold import Keep
from monosem.inspect.options import Options
from monosem.inspect.overview import modal, specificity
from monosem.inspect.own import OwnText
from monosem.inspect.rows import Rows
from monosem.networks.logits import LogitEffect

_TYPES = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "i1": "<i1", "i2": "<i2", "i4": "<i4", "f4": "<f4"}


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """base64 of deflate of: the header's length (4 bytes, little endian), the header as JSON, and the arrays.

    The header gains `arrays`: name -> [type, size, first byte]. An array is stored by planes, all lowest bytes first,
    then all second ones and so on, which deflates better than number by number.
    """
    parts, table, at = [], {}, 0
    for name, array in arrays.items():
        kind = array.dtype.str[1:]
        flat = np.ascontiguousarray(array.reshape(-1), dtype=_TYPES[kind])
        planes = flat.view(np.uint8).reshape(flat.size, flat.dtype.itemsize).T.tobytes()
        table[name] = [kind, flat.size, at]
        parts.append(planes)
        at += len(planes)
    text = json.dumps(header | {"arrays": table}, allow_nan=False).encode()
    return base64.b64encode(zlib.compress(b"".join([len(text).to_bytes(4, "little"), text, *parts]), 6)).decode()


def small(values: np.ndarray) -> np.ndarray:
    """Whole numbers >= 0 in the smallest type that holds them."""
    largest = int(values.max(initial=0))
    return values.astype(np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.uint32)


def quantised(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """round(32767 values / scale) in 16 bits; |values| <= scale, and a zero scale gives zeros."""
    divisor = np.where(np.asarray(scale) > 0, scale, 1.0)
    return np.clip(np.rint(32767.0 * values / divisor), -32767, 32767).astype(np.int16)


CLASSES = 12
"""Classes per latent that the page holds, those with most firings."""
IMAGES = 20_000
"""Images in a page, the strongest of every latent first."""
PIXELS = 64
"""Longest side of an image in a page; larger ones are scaled down."""
TEXTS = 50_000
"""Texts in a page, the strongest of every latent first."""
CHARACTERS = 300
"""Characters of a text in a page."""


@dataclass(frozen=True, eq=False)
class _Anchored:
    """The first k latents were anchored: what to call each, and the cosine of its decoder column with its anchor."""

    names: tuple[str, ...]
    cosine: Float[np.ndarray, " k"]


def anchored(model: SDL, anchors: Anchors, names: tuple[str, ...] = ()) -> _Anchored:
    """How the first latents of a model lie to the anchors that held them. Raises: ShapeError when they do not fit."""
    have, wanted = (anchors.r.shape[0], anchors.k), (model.layout.n_r, model.n_q)
    check(
        have[0] == wanted[0] and have[1] <= wanted[1],
        f"the anchors have (n_r, k) = {have}, the model (n_r, n_q) = {wanted}; give the anchors it was trained with",
        ShapeError,
    )
    check(not names or len(names) == anchors.k, f"{len(names)} names for {anchors.k} anchors; give one each")
    columns = torch.nn.functional.normalize(model.W_D.detach().float()[:, : anchors.k], dim=0)
    cosine = (columns * anchors.r.to(columns)).sum(0).cpu().numpy()
    return _Anchored(names or tuple(f"anchor {i}" for i in range(anchors.k)), cosine)


def page_data(
    inspection: Inspection,
    rows: Rows,
    about: dict[str, Any],
    effect: LogitEffect | None = None,
    anchored_latents: _Anchored | None = None,
) -> str:
    """Everything the page's script reads, packed; `about` goes into its header as it is."""
    counts = inspection.counts
    header = about | {
        "rows": inspection.rows,
        "n_q": counts.n_q,
        "kind": rows.kind,
        "fvu": inspection.fvu,
        "l0": inspection.l0,
        "options": vars(inspection.options),
        "nearest": inspection.nearest.shape[1],
        "classes": [] if rows.labels is None else list(rows.labels.names),
        "signed": bool((inspection.top.window < 0).any()),
    }
    arrays = _numbers(inspection)
    bands = inspection.bands.by_latent()
    keeps = {"top": inspection.top, "sample": inspection.sample, "band": bands}
    used = np.unique(np.concatenate([_window_rows(keep) for keep in keeps.values()]))
    for name, keep in keeps.items():
        arrays |= _contexts(name, keep, rows, used, counts.largest)
    arrays["band.of"] = small(np.nonzero(bands.row >= 0)[1] // max(1, inspection.options.band))
    arrays |= _classes(inspection, rows, header)
    arrays["number"] = small(used)
    for name, numbers in (("document", rows.document), ("position", rows.position)):
        if numbers is not None:
            arrays[name] = small(np.asarray(numbers)[used])
    if rows.labels is not None:
        arrays["label"] = small(rows.labels.codes.numpy()[used] + 1)
    known = _tokens(rows, used, effect, header, arrays)
    _specific(rows, list(keeps.values()), counts.fired, known, arrays)
    _shown(list(keeps.values()), rows, used, header, arrays)
    if anchored_latents is not None:
        header["anchored"] = {
            "names": list(anchored_latents.names),
            "cosine": [round(float(c), 4) for c in anchored_latents.cosine],
        }
    return pack(header, arrays)


def _numbers(inspection: Inspection) -> dict[str, np.ndarray]:
    """What needs no context: counts, histograms, neighbours and places, by latent."""
    counts = inspection.counts
    return {
        "fired": small(counts.fired),
        "mean": (counts.total / np.maximum(counts.fired, 1)).astype(np.float32),
        "largest": counts.largest,
        "exponent": counts.exponent.clip(-127, 127).astype(np.int8),
        "histogram": small(counts.histogram),
        "nearest": small(inspection.nearest),
        "cosine": quantised(inspection.cosine, 1.0),
        "active": small(inspection.active),
        "company": small(inspection.company),
        "phi": quantised(inspection.phi, 1.0),
        "place": quantised(inspection.place, np.quantile(np.abs(inspection.place), 0.995, axis=0)),
    }


def _window_rows(keep: Keep) -> np.ndarray:
    """The rows of all windows of all contexts, each once or more."""
    latent, place = np.nonzero(keep.row >= 0)
    row, left, right = (part[latent, place].astype(np.int64) for part in (keep.row, keep.left, keep.right))
    length = left + right + 1
    starts = np.cumsum(length) - length
    rows: np.ndarray = np.arange(length.sum()) - np.repeat(starts, length) + np.repeat(row - left, length)
    return rows


def _contexts(name: str, keep: Keep, rows: Rows, used: np.ndarray, largest: np.ndarray) -> dict[str, np.ndarray]:
    """Contexts latent after latent: where each starts among the used rows, its peak, length and active tokens.

    Values are 16-bit shares of the latent's maximum. `more` says that the text goes on to the left (1), right (2).
    """
    latent, place = np.nonzero(keep.row >= 0)
    row, left, right = (part[latent, place] for part in (keep.row, keep.left, keep.right))
    length = left.astype(np.int64) + right + 1
    first = row - left
    window = keep.window[latent, place]
    context, column = np.nonzero(window)
    more = np.zeros(latent.size, dtype=np.uint8)
    for bit, edge in ((1, first - 1), (2, first + length)):
        inside = (edge >= 0) & (edge < rows.count)
        more |= bit * (inside & (rows.segment[edge.clip(0, rows.count - 1)] == rows.segment[row])).astype(np.uint8)
    return {
        f"{name}.count": small(keep.count),
        f"{name}.start": small(np.searchsorted(used, first)),
        f"{name}.peak": left,
        f"{name}.length": small(length),
        f"{name}.more": more,
        f"{name}.active": small(np.bincount(context, minlength=latent.size)),
        f"{name}.at": small(column - keep.before + left.astype(np.int64)[context]),
        f"{name}.value": quantised(window[context, column], largest[latent[context]]),
    }


def _classes(inspection: Inspection, rows: Rows, header: dict[str, Any]) -> dict[str, np.ndarray]:
    """The classes with most firings of every latent, and how many rows each class has."""
    if rows.labels is None:
        return {}
    counts = inspection.counts.classes
    codes = rows.labels.codes.numpy()
    most = min(CLASSES, counts.shape[1])
    order = np.argsort(-counts, axis=1, kind="stable")[:, :most]
    header["class_places"] = most
    return {
        "class": small(order),
        "class_fired": small(np.take_along_axis(counts, order, 1)),
        "class_rows": small(np.bincount(codes[codes >= 0], minlength=counts.shape[1])),
    }


def _specific(
    rows: Rows, keeps: list[Keep], fired: np.ndarray, known: np.ndarray, arrays: dict[str, np.ndarray]
) -> None:
    """What a firing says, in bits: of its class, from all firings; without classes of its token, from the contexts.

    `known` are the tokens of the page's vocabulary.
    """
    if rows.labels is not None:
        places = arrays["class"].size // fired.size
        word, hits = (arrays[name].reshape(-1, places)[:, 0].astype(np.int64) for name in ("class", "class_fired"))
        shown, share = fired, arrays["class_rows"][word] / rows.count
    elif rows.token is not None:
        token = np.asarray(rows.token)[: rows.count].astype(np.int64)
        vocabulary, counts = np.unique(token, return_counts=True)
        cells = [np.nonzero(keep.row >= 0) for keep in keeps]
        latent = np.concatenate([at[0] for at in cells])
        peaks = np.concatenate([keep.row[at] for keep, at in zip(keeps, cells, strict=True)])
        best, hits = modal(latent, np.searchsorted(vocabulary, token[peaks]), fired.size)
        shown, share = np.bincount(latent, minlength=fired.size), counts[best] / rows.count
        word = np.searchsorted(known, np.where(shown > 0, vocabulary[best], known[:1]))
    else:
        return
    arrays["bits"] = np.where(fired > 0, specificity(hits, shown, share), 0.0).astype(np.float32)
    arrays["word"] = small(word)


def _tokens(
    rows: Rows, used: np.ndarray, effect: LogitEffect | None, header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> np.ndarray:
    """The vocabulary of what is shown, the tokens of the used rows, and the tokens that latents promote."""
    sides = (
        {} if effect is None else {"up": (effect.top, effect.top_values), "down": (effect.bottom, effect.bottom_values)}
    )
    tokens = {name: ids.numpy() for name, (ids, _) in sides.items()}
    if rows.token is not None:
        tokens["token"] = np.asarray(rows.token)[used].astype(np.int64)
    if not tokens:
        return np.zeros(0, dtype=np.int64)
    check(rows.decode is not None, "logit effects need decode, which turns token numbers into texts")
    assert rows.decode is not None
    vocabulary = np.unique(np.concatenate([ids.reshape(-1) for ids in tokens.values()]))
    header["vocabulary"] = rows.decode(vocabulary.tolist())
    arrays |= {name: small(np.searchsorted(vocabulary, ids)) for name, ids in tokens.items()}
    if effect is not None:
        values = [value.float().numpy() for _, value in sides.values()]
        scale = max(float(np.abs(value).max(initial=0.0)) for value in values)
        header["effect"] = {"tokens": int(effect.top.shape[1]), "scale": scale, "norm": effect.norm}
        arrays |= {f"{name}.value": quantised(value, scale) for name, value in zip(sides, values, strict=True)}
    return vocabulary


def _shown(
    keeps: list[Keep], rows: Rows, used: np.ndarray, header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Texts and images of contexts: the strongest of every latent first, as many as a page can hold."""
    if rows.kind not in ("texts", "images"):
        return
    wanted = np.concatenate([keep.row.T.reshape(-1) for keep in keeps])
    wanted = wanted[wanted >= 0]
    wanted = wanted[np.sort(np.unique(wanted, return_index=True)[1])]
    chosen = wanted[: IMAGES if rows.kind == "images" else TEXTS]
    place = np.zeros(used.size, dtype=np.int64)
    place[np.searchsorted(used, chosen)] = 1 + np.arange(chosen.size)
    header["shown"] = [int(chosen.size), int(wanted.size)]
    arrays["shown"] = small(place)
    if rows.texts is not None and rows.kind == "texts":
        texts = (str(rows.texts[int(row)]) for row in chosen)
        header["texts"] = [t if len(t) <= CHARACTERS else t[:CHARACTERS] + " …" for t in texts]
    elif rows.image is not None:
        images = [_webp(rows.image(int(row))) for row in chosen]
        arrays["image.end"] = small(np.cumsum([len(image) for image in images], dtype=np.int64))
        arrays["image"] = np.frombuffer(b"".join(images), np.uint8)


def _webp(image: np.ndarray) -> bytes:
    """A small image: without loss up to 16 x 16, else with some, at most PIXELS long."""
    from PIL import Image

    picture = Image.fromarray(image)
    if max(picture.size) > PIXELS:
        picture.thumbnail((PIXELS, PIXELS))
    file = io.BytesIO()
    picture.save(file, "webp", lossless=picture.width * picture.height <= 256, quality=85)
    return file.getvalue()


_SCRIPTS = [f"inspect_{part}.js" for part in ("data", "labels", "list", "detail", "overview")]


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
    labels: Mapping[int, Mapping[str, Any]] | None = None,
    own: Sequence[OwnText] = (),
    progress: Callable[[int], None] | None = None,
) -> str:
    """The page as text: every latent's firing rate, strongest contexts, histogram, classes and nearest latents.

    `method` says what trained the model; `effect` adds the tokens that latents promote; `anchors` marks the first
    latents, `anchor_names` names them; `labels` are what `explain` says of some, `own` are texts with what fires on
    them. The rows pass once (`collect`); `progress` is called with the number done. The page is the same for the same
    input.
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
    identity = hashlib.sha256(model.W_D.detach().float().cpu().numpy().tobytes()).hexdigest()[:16]
    header: dict[str, Any] = {
        "identity": identity,
        "model": title,
        "method": method,
        "title_rows": rows.title,
        "monosem": __version__,
    }
    if labels:
        header["labels"] = {str(latent): dict(value) for latent, value in labels.items()}
    if own:
        header["own"] = [vars(text) for text in own]
    data = page_data(collect(model, rows, options, progress), rows, header, effect, anchored_latents)
    return sealed("monosem.inspect", "inspect.html", ["inspect.css"], _SCRIPTS, title=escape(title), data=data)


def write_inspect_page(path: str | Path, page: str) -> Path:
    """Write the page, whole or not at all."""
    return write_atomic(path, page.encode())
