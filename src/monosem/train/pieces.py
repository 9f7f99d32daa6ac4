"""A checkpoint in pieces: each process writes its share to a file of its own, and then one of them names all files.

`checkpoint.json` is written last and names every piece with its share and its checksum: a piece that is missing, or
is of another step, is an error. Whatever number of processes wrote them, any number reads them.
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError
from torch import Tensor

from monosem.base.errors import CheckpointError, check
from monosem.base.files import json_bytes, read_json, write_atomic, write_together
from monosem.base.group import Group, in_step
from monosem.base.schema import Count, Matches, Sha256, Size, read
from monosem.base.tensors import open_file, read_tensors, seal, sealed, tensor_writer, write_part
from monosem.core.io import FORMAT as MODEL
from monosem.core.io import config_bytes, model_tensors
from monosem.core.model import SDL
from monosem.core.shards import Region, Share, region, share_of, whole_name

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
    columns: tuple[Count, Size] | None = None

    @property
    def share(self) -> Share:
        return Share(self.first, self.last, self.columns)


@dataclasses.dataclass(frozen=True)
class _Manifest:
    format: str
    identity: str
    parts: str
    step: str
    log: str
    machine: str
    pieces: list[_Entry]


Piece = tuple[Share, dict[str, Tensor]]
"""What a file of a checkpoint is of, and its tensors, named as in the whole model."""


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


def read_pieces(model: SDL, path: Path) -> tuple[dict[str, str], Iterator[Piece]]:
    """(what a checkpoint says, those of its pieces that have something of a model, each read when it is asked for).

    Raises: CheckpointError, naming the file, where one is missing, damaged, or of another checkpoint.
    """
    if path.name == ONE:
        about, tensors = read_tensors(path, FORMAT, ABOUT, REMEDY)
        return about, iter([(Share(0, model.whole.n_q), tensors)])
    manifest = _manifest(path)
    _check_shares(model, manifest, path)
    own = share_of(model)
    wanted = [e for e in manifest.pieces if e.share == own] or [e for e in manifest.pieces if _meet(e.share, own)]
    about = dataclasses.asdict(manifest)
    del about["pieces"]
    return about, ((e.share, _read(path.parent / e.file, e.sha256)) for e in wanted)


def _check_shares(model: SDL, manifest: _Manifest, path: Path) -> None:
    """Raises: CheckpointError where the pieces do not make the whole."""
    last, right, n_r = 0, 0, model.whole.n_r
    for entry in manifest.pieces:
        there = (path.parent / entry.file).is_file()
        check(there, f"{path} names {entry.file}, which is missing; restore it, or {REMEDY}", CheckpointError)
        check(entry.first == last < entry.last, f"{path} has no piece from latent {last} on; {REMEDY}", CheckpointError)
        left, end = entry.columns or (right, n_r if entry is manifest.pieces[-1] else right)
        check(left == right <= end, f"{path} has no piece from column {right} on; {REMEDY}", CheckpointError)
        last, right = entry.last, end
    n_q = model.whole.n_q
    check(last == n_q, f"{path} is of {last} latents, this run has n_q={n_q}; choose another folder", CheckpointError)
    check(right == n_r, f"{path} is of {right} columns, this run has n_r={n_r}; choose another folder", CheckpointError)


def _meet(one: Share, other: Share) -> bool:
    across = one.columns is not None or other.columns is not None  # then something of every latent is here
    return across or max(one.first, other.first) < min(one.last, other.last)


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    tensors = read_tensors(path, FORMAT, ABOUT, f"restore it, or delete {SEVERAL} to start again")[1]
    same = sealed(path) == sha256
    check(same, f"{path} is not the piece that {SEVERAL} names; restore both, or {REMEDY}", CheckpointError)
    return tensors


def own_part(model: SDL, pieces: Iterable[Piece], path: Path) -> dict[str, Tensor]:
    """The tensors of a model's own share, out of pieces; what all have in common from the first."""
    own, tensors, lacks = share_of(model), {}, {}  # type: Share, dict[str, Tensor], dict[str, int]
    for share, piece in pieces:
        if share == own:
            return piece
        for name, tensor in piece.items():
            wanted, have = (region(model.whole, name, each)[: tensor.ndim] for each in (own, share))
            if not wanted:
                tensors.setdefault(name, tensor)
            elif all(wanted):
                if name not in tensors:
                    shape = [len(r) for r in wanted]
                    tensors[name], lacks[name] = tensor.new_empty(*shape, *tensor.shape[len(shape) :]), math.prod(shape)
                fits = list(tensor.shape[: len(have)]) == [len(r) for r in have]
                check(fits, f"{path}: {name} of a piece has shape {tuple(tensor.shape)}; {REMEDY}", CheckpointError)
                lacks[name] -= _take(tensors[name], wanted, tensor, have)
    short = [name for name, cells in lacks.items() if cells > 0]
    check(not short, f"{path}: no piece has all of {', '.join(short)}; {REMEDY}", CheckpointError)
    return tensors


def _take(to: Tensor, wanted: Region, tensor: Tensor, have: Region) -> int:
    """Copy what two parts of one tensor have in common; how many entries that are."""
    both = [range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(wanted, have, strict=True)]
    into, out = (
        tuple(slice(r.start - at.start, r.stop - at.start) for r, at in zip(both, part, strict=True))
        for part in (wanted, have)
    )
    if all(both):
        to[into] = tensor[out]
    return math.prod(len(r) for r in both)


def save_run(group: Group, share: Share, tensors: dict[str, Tensor], about: dict[str, str], folder: Path) -> None:
    """Write a checkpoint of tensors that nothing changes any more; a kill at any moment leaves the last whole one."""
    if group.size > 1:
        _save_pieces(group, share, tensors, about, folder)
        return
    write_atomic(folder / ONE, tensor_writer(tensors, about, copied=True))
    _drop_pieces(folder)


def _save_pieces(group: Group, share: Share, tensors: dict[str, Tensor], about: dict[str, str], folder: Path) -> None:
    """Write each process's piece, then the manifest; older checkpoints go after that."""
    names = [f"checkpoint-{about['step']}-{rank}-of-{group.size}.safetensors" for rank in range(group.size)]
    shares = group.gather(torch.tensor([[share.first, share.last, *(share.columns or (-1, -1))]])).tolist()
    with in_step(group):
        write_atomic(folder / names[group.rank], tensor_writer(tensors, about, copied=True))
    with in_step(group):
        if group.rank == 0:
            entries = [
                {"file": name, "first": first, "last": last, "sha256": sealed(folder / name)}
                | ({} if share.columns is None else {"columns": columns})
                for name, (first, last, *columns) in zip(names, shares, strict=True)
            ]
            write_atomic(folder / SEVERAL, json_bytes(about | {"pieces": entries}))
            (folder / ONE).unlink(missing_ok=True)
            _drop_pieces(folder, but=names)


def drop_older(folder: Path) -> None:
    """Remove what the newest checkpoint takes the place of, where a kill has left it, and pieces of none."""
    path = newest(folder)
    if path is None or path.name == ONE:
        _drop_pieces(folder)
        return
    (folder / ONE).unlink(missing_ok=True)
    _drop_pieces(folder, but=[entry.file for entry in _manifest(path).pieces])


def _drop_pieces(folder: Path, but: list[str] | None = None) -> None:
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
            at = region(model.whole, name, share_of(model))[: tensor.ndim]
            if at or group.rank == 0:
                write_part(part, name, [r.start for r in at], tensor)
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
    every, shapes = Share(0, whole.n_q), {}
    for name, tensor in tensors.items():
        at = region(whole, name, every)[: tensor.ndim]
        shapes[name] = ((*(len(r) for r in at), *tensor.shape[len(at) :]), tensor.dtype)
    for side in ("encoder", "decoder"):
        shapes |= {f"{side}.{i}": (block.shape, kind) for i, block in enumerate(getattr(whole, side))}
    return shapes
