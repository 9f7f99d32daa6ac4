"""`monosem train`: train a method on rows of a store, of files, or of a network that runs ahead of it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.base.errors import MonosemError
from monosem.cli.console import check_device, err, fail, quietly, say, split_names
from monosem.cli.options import Answer, Group, command_of, opt
from monosem.cli.shared import RowsOptions, need, quoted, shared
from monosem.cli.stream import Fed, StreamOptions, open_stream
from monosem.train.config import FitConfig

if TYPE_CHECKING:
    from torch import Tensor

    from monosem.base.group import Group as Processes
    from monosem.core.pairs import Pairing
    from monosem.data.source import FileSource
    from monosem.methods import Method
    from monosem.train.result import Result

_data = partial(opt, panel="Data")
_anchor = partial(opt, panel="Anchors")
_several = partial(opt, panel="Several processes")
TRAINING = Group(
    "Training",
    {
        "steps": "Number of optimiser steps.",
        "batch_size": "Number of rows of one step.",
        "lr": "Learning rate of Adam at its highest.",
        "seed": "Seed for the initial weights and the order of rows.",
        "device": "Where the model trains, such as cpu, cuda or cuda:1.",
        "betas": "Decay rates of Adam's two moments.",
        "eps": "Term that Adam adds to the root of its second moment.",
        "warmup": "Fraction of the steps over which the learning rate rises from 0.",
        "decay": "Fraction of the steps, the last ones, over which the learning rate falls.",
        "floor": "Fraction of the learning rate that is left at the last step.",
        "clip": "Largest norm of the gradient over all parameters. [default: not clipped]",
        "dead_window": "Rows without firing after which a latent is dead. [default: a tenth of the run's rows]",
        "log_every": "Steps from one log entry to the next.",
        "checkpoint_every": "Steps from one checkpoint to the next.",
        "sample_rows": "Rows that initial values, such as the mean of the data, are measured on.",
        "threads": "Number of torch threads. [default: torch's own]",
        "selection": "Precision of the first pass of a selection; both select exactly the same latents.",
        "dense": "Precision of the matrix products of dense codes; bf16 changes them.",
    },
    shown=("steps", "batch_size", "lr", "device"),
    names={"floor": "--lr-floor", "warmup": "--lr-warmup", "decay": "--lr-decay"},
    defaults={"checkpoint_every": 500},
)


@dataclass(frozen=True)
class _TrainRows(RowsOptions):
    """The rows of a training, unless a network gives them."""

    data: Annotated[
        Path | None, _data("Rows x_p: a store of `monosem harvest`, or a .npy, .safetensors or .parquet file.")
    ] = None  # type: ignore[assignment]
    read: Annotated[str | None, _data("Sites of the store, or of --network, to read.")] = None
    write: Annotated[str | None, _data("Sites to write, for a transcoder.")] = None


@dataclass(frozen=True, kw_only=True)
class _TrainOptions:
    """The options of `monosem train`."""

    rows: _TrainRows
    live: StreamOptions
    method: Annotated[str, opt('Method, such as "topk(k=32)"; `monosem list methods` names them.', complete="methods")]
    n_q: Annotated[int, opt("Number of latents.", "--n-q")]
    out_folder: Annotated[Path, opt("Folder for the dictionary, its log and its checkpoint.", "--out")]
    config: Annotated[FitConfig, TRAINING]
    start: Annotated[
        Path | None,
        opt("Dictionary to go on from, of any known format: same sizes, pairing and activation.", "--from", more=True),
    ] = None
    widths: Annotated[
        str | None, _data('Widths of several sources that lie side by side in --data, as "384,384".', more=True)
    ] = None
    target_widths: Annotated[
        str | None, _data('Widths of several sources that lie side by side in --target, as "384,384".', more=True)
    ] = None
    normalise: Annotated[
        bool,
        _data("Train on centred rows of mean norm sqrt(n), folded into the saved weights.", more=True),
    ] = True
    norm_limit: Annotated[
        float, _data("Leave out rows with more than this many times the median norm; 0: none.", more=True)
    ] = 5.0
    held_out: Annotated[
        int,
        _data("Rows held back and scored, a tenth at most; 0: none, and scores are on rows of training.", more=True),
    ] = 8192
    centre: Annotated[
        bool, _data("Start the decoder bias at the data's mean and subtract the pre-encoder bias.", more=True)
    ] = True
    labels: Annotated[Path | None, _anchor("Anchor at the means of these classes: a file, or a store.", more=True)] = (
        None
    )
    labels_key: Annotated[
        str | None, _anchor("Tensor of the .safetensors file --labels, or column of a .parquet one.", more=True)
    ] = None
    classes: Annotated[
        str | None, _anchor('Classes to anchor, as "cat,dog". [default: all of --labels]', more=True)
    ] = None
    anchors_file: Annotated[Path | None, _anchor("Anchor at the directions of `monosem anchors`.", "--anchors")] = None
    anchors_weight: Annotated[
        float | None, _anchor("Weight of the anchoring term. [default: that of the form]", more=True)
    ] = None
    printed: Annotated[
        bool, _anchor("Anchor both encoder and decoder, without a start at the anchors, as in the paper.",
                      "--printed", more=True),
    ] = False  # fmt: skip
    hard: Annotated[bool, _anchor("Freeze anchored latents.", "--hard", more=True)] = False

    mesh: Annotated[
        str | None, _several("Share the model among the processes of torchrun, as latents=4, or targets=4.", more=True)
    ] = None
    other_machine: Annotated[
        bool,
        _several("Resume on another machine or with another number of processes: a valid run, with bits of its own.",
                 "--other-machine", more=True),
    ] = False  # fmt: skip

    def __post_init__(self) -> None:
        if self.held_out < 0:
            fail(f"--held-out {self.held_out}; it must be at least 0")
        if not (self.norm_limit == 0 or self.norm_limit > 1):
            fail(f"--norm-limit {self.norm_limit}; it is a multiple of the median norm, more than 1, or 0 for none")


@command_of(_TrainOptions)
def train(o: _TrainOptions) -> Answer:
    """Train a method on your own activations; called again, it resumes from its last checkpoint."""
    from monosem.base.files import claim

    check_device(o.config.device)
    first = o.mesh is None or os.environ.get("RANK", "0") == "0"
    with claim(o.out_folder) if first else quietly(True), shared(o.mesh, o.config.device) as group:
        answer = _train(o, first, group)
    if answer is None:
        raise typer.Exit
    return answer


def _train(o: _TrainOptions, first: bool, group: "Processes") -> Answer | None:
    """Train; of several processes the first alone speaks, scores and writes what is not shared."""
    from monosem.data.stream import StreamSource
    from monosem.front.given import as_start
    from monosem.train.loop import fit

    need("--labels-key", o.labels_key, "--labels", o.labels)
    chosen, folder = _chosen(o), o.out_folder
    fed = _stored(o, chosen) if o.live.network is None else _streamed(o, chosen, group)
    source, anchors = fed.source, fed.notes.anchors
    rows = "rows of a network" if source.rows is None else f"{source.rows:,} rows"
    with_anchors = f", {anchors.k} anchors ({anchors.kind})" if anchors else ""
    say(f"{chosen.spec} on {rows}, n_p={sum(source.p_widths)}, n_r={sum(source.r_widths)}, n_q={o.n_q}{with_anchors}")
    if any(folder.glob("checkpoint.*")):
        say(f"{folder} holds a checkpoint of an earlier call; resuming from there", "dim")
    chosen = _centred(chosen) if o.centre else chosen
    result = fit(
        chosen, source, o.n_q, o.config, anchors, out=folder, mesh=o.mesh, progress=not err().quiet,
        allow_other_machine=o.other_machine, start=None if o.start is None else as_start(o.start),
    )  # fmt: skip
    waited = None
    if isinstance(source, StreamSource):
        waited = source.waited
        source.close()
        _say_left_out(*source.left_out, o.norm_limit)
    if not first:
        for _ in fed.scored() if fed.together else ():
            pass
        return None
    result = _whole(result, folder)
    fed.notes.keep(folder)
    try:
        return _answer(result, fed, folder, waited)
    except MonosemError as error:
        say(f"trained and saved in {folder}; it cannot be scored: {error}", "yellow")
        return Answer({"out": str(folder), "seconds": result.seconds}, "")


def _stored(o: _TrainOptions, chosen: "Method") -> Fed:
    """The rows of a store or of files: outliers left out, some held back, the rest in units of training."""
    from monosem.data.store import is_store
    from monosem.data.trained import notes_of
    from monosem.front.fitting import check_source

    if o.rows.data is None:
        fail("no rows to train on; give --data, or --network with --read and --text")
    o.live.leave_out()
    stored = is_store(o.rows.data)
    if not stored:
        _agree(chosen.pairing, o.rows.target is not None, o.widths)
    widths = {"widths": _numbers("--widths", o.widths)}
    widths["target_widths"] = _numbers("--target-widths", o.target_widths)
    source = o.rows.open(chosen.pairing, labels=o.labels, labels_key=o.labels_key, **widths)
    check_source(chosen, source)
    with err().status(f"measuring {o.rows.data}"):
        far = source.ordinary(o.norm_limit) if o.norm_limit else 0
        held_out = source.set_aside(o.held_out) if o.held_out else 0
        if o.normalise:
            source.normalised()
        notes = notes_of(source, o.anchors_file, split_names(o.classes), o.labels)
    _say_left_out(far, source.total, o.norm_limit)

    def scored() -> "Iterable[tuple[Tensor, Tensor]]":
        return source.batches(source.held_out) if held_out else _parts(source)

    look = quoted("monosem", "inspect", o.out_folder) + ("" if stored else f" {o.rows.written()}")
    return Fed(source, notes, scored, held_out > 0, look)


def _say_left_out(far: int, rows: int, limit: float) -> None:
    if far:
        say(f"left out {far:,} of {rows:,} rows: their norm is over {limit:g} times the median "
            "(--norm-limit 0 keeps them)")  # fmt: skip


def _parts(source: "FileSource") -> "Iterable[tuple[Tensor, Tensor]]":
    """Rows of training, spread evenly."""
    import torch

    return zip(*(torch.split(x, 1024) for x in source.sample(8192)), strict=True)


def _streamed(o: _TrainOptions, chosen: "Method", group: "Processes") -> Fed:
    """The rows of a network that runs ahead of training."""
    from monosem.front.fitting import check_source

    for option, value in (("--labels", o.labels), ("--classes", o.classes), ("--widths", o.widths)):
        need(option, value, "--data", None)
    need("--target-widths", o.target_widths, "--data", None)
    place: dict[str, Any] = {"device": o.config.device, "held_out": o.held_out, "folder": o.out_folder}
    place |= {"normalise": o.normalise, "norm_limit": o.norm_limit or None, "group": group}
    fed = open_stream(o.live, o.rows, chosen.pairing, **place, anchors=o.anchors_file)
    check_source(chosen, fed.source)
    return fed


def _whole(result: "Result", folder: Path) -> "Result":
    """The result with the model of all latents."""
    from dataclasses import replace

    from monosem.core.io import load_model

    several = result.model.group.size > 1
    return replace(result, model=load_model(folder, device=result.model.b_E.device)) if several else result


def _chosen(o: _TrainOptions) -> "Method":
    """The method with the form of anchoring that is asked for."""
    from dataclasses import replace

    from monosem.anchors.term import PRINTED, Anchoring
    from monosem.methods import method, with_anchoring

    form = replace(PRINTED if o.printed else Anchoring(), hard=o.hard)
    form = form if o.anchors_weight is None else replace(form, weight=o.anchors_weight)
    return with_anchoring(method(o.method), form)


def _agree(pairing: "Pairing", has_target: bool, widths: str | None) -> None:
    """The method's pairing, --target and --widths say the same about what is read and written."""
    from monosem.core.pairs import SAE, Crosscoder, Transcoder

    name = f"the pairing {type(pairing).__name__}"
    written = not isinstance(pairing, SAE | Crosscoder)
    if written and not has_target:
        fail(f"{name} writes another representation than it reads; give it with --target")
    if has_target and not written:
        fail(f"{name} writes what it reads, but --target is given; use a transcoder, as 'topk_transcoder'")
    if not isinstance(pairing, SAE | Transcoder) and widths is None:
        fail(f'{name} reads several sources side by side; give their widths, as --widths "384,384"')


def _centred(chosen: "Method") -> "Method":
    """The same method for data that are not centred."""
    from dataclasses import replace

    from monosem.core.pairs import SAE, Crosscoder

    shared = isinstance(chosen.pairing, SAE | Crosscoder)
    return replace(chosen, init=replace(chosen.init, b_D="mean"), pre_bias="tied" if shared else "free")


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        fail(f'{option} "{text}" are not whole numbers; write them as "384,384"')


def _answer(result: "Result", fed: Fed, folder: Path, waited: float | None) -> Answer:
    """Scores on rows that were held back, or on rows of training, and where everything is."""
    import torch

    from monosem.bench.folds import Coded, evaluate
    from monosem.cli.tables import values_table

    model, source, anchors, count = result.model, fed.source, fed.notes.anchors, 0

    def coded() -> "Iterator[Coded]":
        nonlocal count
        for x_p, x_r in fed.scored():
            count += x_p.shape[0]
            out = model(x_p.to(model.b_E.device))
            yield Coded(x_r.to(model.b_E.device), out.x_r_hat, out.code)

    with torch.no_grad():
        scores = evaluate(coded())
    facts: dict[str, Any] = {name: scores[name] for name in ("fvu", "l0", "dead")}
    facts |= {"rows": source.rows, "scored_rows": count, "held_out": fed.held_out, "n_q": model.n_q}
    facts |= {"out": str(folder), "seconds": result.seconds}
    facts["anchors"] = None if anchors is None else {"k": anchors.k, "kind": anchors.kind}
    shown = {
        "FVU": f"{scores['fvu']:.4f}",
        "L0": f"{scores['l0']:.1f} of {model.n_q} latents",
        "dead": f"{scores['dead']:.1%} of latents never fire",
    }
    if anchors is not None:
        W_D = torch.nn.functional.normalize(model.W_D.detach()[:, : anchors.k], dim=0)
        facts["anchors"] |= {"cosine": float((W_D * anchors.r.to(W_D.device)).sum(0).mean())}
        cosine = f"cosine with their anchors {facts['anchors']['cosine']:.3f} on average"
        shown["anchors"] = f"{anchors.k}, the first latents; {cosine}"
    if waited is not None:
        facts["waited"] = waited
        shown["waited"] = f"{waited:.0%} of the time, for the network"
    shown |= {
        "time": f"{result.seconds:.1f} s in this call",
        "saved": f"{folder} (model.safetensors, config.json, log.jsonl, checkpoint)",
    }
    if scores["fvu"] > 1:
        say(f"FVU {scores['fvu']:.3g}: the mean of the rows is nearer; lower --lr, or train longer", "yellow")
    rows = "rows that it never saw" if fed.held_out else "rows that it was trained on"
    if (settled := result.about.get("settled")) is not None:
        facts["settled"] = settled
        shown["L0"] += f"; {settled['l0']:g} asked for, thresholds settled on {settled['rows']:,} {settled['of']}"
    return Answer(facts, values_table(shown, f"trained; scores on {count:,} {rows}"), fed.follow)
