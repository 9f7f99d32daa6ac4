"""A checkpoint in pieces: each process writes its latents to a file of its own, and then one of them names all files.

`checkpoint.json` is written last and names every piece with its latents and its checksum: a piece that is missing, or
is of another step, is an error. Whatever number of processes wrote them, any number reads them.
"""

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from monosem.base.errors import CheckpointError, check
from monosem.base.files import json_bytes, read_json, write_atomic, write_together
from monosem.base.group import in_step
from monosem.base.schema import Count, Matches, Sha256, Size, read
from monosem.base.tensors import open_file, read_tensors, seal, sealed, tensor_writer, write_rows
from monosem.core.io import FORMAT as MODEL
from monosem.core.io import config_bytes, model_tensors
from monosem.core.model import SDL
from monosem.core.shards import rows_within, whole_name

FORMAT = "monosem.run/2"
ABOUT = frozenset(["identity", "parts", "step", "log", "machine"])
"""What a checkpoint says of its run, beside its format."""
ONE, SEVERAL, PIECES = "checkpoint.safetensors", "checkpoint.json", "checkpoint-*-of-*.safetensors"
REMEDY = "delete it to start again"


@dataclasses.dataclass(frozen=True)
class _Entry:
    file: Annotated[str, Matches(r"checkpoint-\d+-\d+-of-\d+\.safetensors", "the name of a piece")]
    first: Count
    last: Size
    sha256: Sha256


@dataclasses.dataclass(frozen=True)
class _Manifest:
    format: str
    identity: str
    parts: str
    step: str
    log: str
    machine: str
    pieces: list[_Entry]


class _Piece(NamedTuple):
    """The tensors of the latents [first, last), named as in the whole model."""

    first: int
    last: int
    tensors: dict[str, Tensor]


def newest(folder: Path) -> Path | None:
    """The checkpoint of a folder, the later one where a kill has left two."""
    there = [path for path in (folder / ONE, folder / SEVERAL) if path.exists()]
    if len(there) < 2:
        return there[0] if there else None
    one = read_tensors(there[0], FORMAT, ABOUT, REMEDY)[0]
    return there[int(int(_manifest(there[1]).step) >= int(one["step"]))]


def _manifest(path: Path) -> _Manifest:
    manifest = read(_Manifest, read_json(path), str(path))
    right = manifest.format == FORMAT and manifest.step.isdigit()
    check(right, f"{path} has format {manifest.format!r}, expected {FORMAT!r}; {REMEDY}", CheckpointError)
    return manifest


def read_pieces(model: SDL, path: Path) -> tuple[dict[str, str], list[_Piece]]:
    """(what a checkpoint says, those of its pieces that have some of a model's latents).

    Raises: CheckpointError, naming the file, where one is missing, damaged, or of another checkpoint.
    """
    n_q = model.whole.n_q
    if path.name == ONE:
        about, tensors = read_tensors(path, FORMAT, ABOUT, REMEDY)
        return about, [_Piece(0, n_q, tensors)]
    manifest, last = _manifest(path), 0
    for entry in manifest.pieces:
        there = (path.parent / entry.file).is_file()
        check(there, f"{path} names {entry.file}, which is missing; restore it, or {REMEDY}", CheckpointError)
        check(entry.first == last < entry.last, f"{path} has no piece from latent {last} on; {REMEDY}", CheckpointError)
        last = entry.last
    check(last == n_q, f"{path} is of {last} latents, this run has n_q={n_q}; choose another folder", CheckpointError)
    own = range(model.first, model.first + model.n_q)
    wanted = [e for e in manifest.pieces if max(e.first, own.start) < min(e.last, own.stop)]
    about = dataclasses.asdict(manifest)
    del about["pieces"]
    return about, [_Piece(e.first, e.last, _read(path.parent / e.file, e.sha256)) for e in wanted]


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    tensors = read_tensors(path, FORMAT, ABOUT, f"restore it, or delete {SEVERAL} to start again")[1]
    same = sealed(path) == sha256
    check(same, f"{path} is not the piece that {SEVERAL} names; restore both, or {REMEDY}", CheckpointError)
    return tensors


_COMMON = re.compile(r"(model|adam)\.(b_D|b_in|W_skip|state|encoder\.[a-z]\w*|decoder\.[a-z]\w*)(\..*)?")
"""Tensors without a row for each latent."""


def _of_latents(name: str, tensor: Tensor) -> bool:
    return tensor.ndim > 0 and not _COMMON.fullmatch(name)


def own_rows(model: SDL, pieces: list[_Piece], path: Path) -> dict[str, Tensor]:
    """The tensors of a model's own latents, out of pieces; what all have in common from the first."""
    first, last = model.first, model.first + model.n_q
    if [(piece.first, piece.last) for piece in pieces] == [(first, last)]:
        return pieces[0].tensors
    tensors: dict[str, Tensor] = {}
    for name, tensor in {name: t for piece in reversed(pieces) for name, t in piece.tensors.items()}.items():
        if not _of_latents(name, tensor):
            tensors[name] = tensor
            continue
        wanted, parts = rows_within(model.whole, name, first, last), []
        for piece in pieces:
            have = rows_within(model.whole, name, piece.first, piece.last)
            both = range(max(have.start, wanted.start), min(have.stop, wanted.stop))
            if both:
                whole = name in piece.tensors and piece.tensors[name].shape[0] == len(have)
                lacks = f"{path}: the piece of latents {piece.first} to {piece.last} lacks {name}; {REMEDY}"
                check(whole, lacks, CheckpointError)
                parts.append(piece.tensors[name][both.start - have.start : both.stop - have.start])
        if parts:
            tensors[name] = torch.cat(parts)
    return tensors


def save_pieces(model: SDL, step: int, tensors: dict[str, Tensor], about: dict[str, str], folder: Path) -> None:
    """Write each process's piece, then the manifest; older checkpoints go after that."""
    group = model.group
    names = [f"checkpoint-{step}-{rank}-of-{group.size}.safetensors" for rank in range(group.size)]
    spans = group.gather(torch.tensor([[model.first, model.first + model.n_q]])).tolist()
    with in_step(group):
        write_atomic(folder / names[group.rank], tensor_writer(tensors, about))
    with in_step(group):
        if group.rank == 0:
            entries = [
                {"file": name, "first": first, "last": last, "sha256": sealed(folder / name)}
                for name, (first, last) in zip(names, spans, strict=True)
            ]
            write_atomic(folder / SEVERAL, json_bytes(about | {"pieces": entries}))
            (folder / ONE).unlink(missing_ok=True)
            drop_pieces(folder, but=names)


def drop_pieces(folder: Path, but: list[str] | None = None) -> None:
    """Remove pieces, and their manifest, but for those of one checkpoint."""
    if but is None:
        (folder / SEVERAL).unlink(missing_ok=True)
    for path in folder.glob(PIECES):
        if path.name not in (but or ()):
            path.unlink()


def save_whole(model: SDL, folder: Path, metadata: dict[str, object]) -> None:
    """Write the ordinary files of a model whose latents lie in several processes; each writes its rows in their place.

    No process has more than its own latents in memory.
    """
    group, part, text = model.group, folder / ".model.safetensors.part", config_bytes(model, metadata)
    tensors = {whole_name(model, name): tensor for name, tensor in model_tensors(model).items()}
    with in_step(group):
        if group.rank == 0:
            about = {"format": MODEL, "config": hashlib.sha256(text).hexdigest()}
            open_file(part, _shapes(model, tensors), about)
    with in_step(group):
        for name, tensor in tensors.items():
            if _of_latents(f"model.{name}", tensor):
                first = rows_within(model.whole, name, model.first, model.first + model.n_q).start
                write_rows(part, name, first, tensor)
            elif group.rank == 0:
                write_rows(part, name, 0, tensor)
    with in_step(group):
        if group.rank == 0:
            try:
                seal(part)
            except SafetensorError as error:
                raise CheckpointError(f"{part} is damaged ({error}); train on from the checkpoint") from None
            write_together(
                {folder / "model.safetensors": lambda to: os.replace(part, to), folder / "config.json": text}
            )


def _shapes(model: SDL, tensors: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """(shape, type) of the whole model's tensors."""
    whole, kind = model.whole, model.b_E.dtype
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items() if not _of_latents(f"model.{name}", t)}
    for name, tensor in tensors.items():
        if name not in shapes:
            shapes[name] = ((whole.n_q, *tensor.shape[1:]), tensor.dtype)
    for side in ("encoder", "decoder"):
        shapes |= {f"{side}.{i}": (block.shape, kind) for i, block in enumerate(getattr(whole, side))}
    return shapes
