"""`monosem train`: train a method on real representations from files."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.base.errors import MonosemError
from monosem.cli.console import command_of, err, fail, out, say, split_names

if TYPE_CHECKING:
    from monosem.anchors.directions import Anchors
    from monosem.core.pairs import Pairing
    from monosem.data.source import FileSource
    from monosem.methods import Method
    from monosem.train.config import FitConfig
    from monosem.train.loop import Result

_data = partial(typer.Option, rich_help_panel="Data")
_anchor = partial(typer.Option, rich_help_panel="Anchors")
_training = partial(typer.Option, rich_help_panel="Training")


@dataclass(frozen=True)
class TrainOptions:
    """The options of `monosem train`."""

    data: Annotated[
        Path,
        typer.Option(
            help="Activations x_p, one row each: a store of `monosem harvest`, or .npy, .safetensors or .parquet.",
            show_default=False,
        ),
    ]
    method: Annotated[str, typer.Option(help='Method, as "topk(k=32)"; `monosem list methods` names them.')]
    n_q: Annotated[int, typer.Option("--n-q", help="Number of latents.", show_default=False)]
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the model, its log and its checkpoint.")]
    target: Annotated[Path | None, _data(help="Activations x_r of the same inputs, for a transcoder.")] = None
    key: Annotated[str | None, _data(help="Tensor of a .safetensors file, or columns of a .parquet one.")] = None
    target_key: Annotated[str | None, _data(help="Tensor or columns of --target.")] = None
    widths: Annotated[str | None, _data(help='Widths of several sources side by side, as "384,384".')] = None
    target_widths: Annotated[str | None, _data(help="Widths of the sources in --target.")] = None
    read: Annotated[str | None, _data(help="Sites of the store to read, where it leaves a choice.")] = None
    write: Annotated[str | None, _data(help="Sites of the store to write, for a transcoder.")] = None
    normalise: Annotated[
        bool | None,
        _data(
            help="Train on centred rows of mean norm sqrt(n), folded into the saved weights. [default: for a store]",
            show_default=False,
        ),
    ] = None
    centre: Annotated[
        bool, _data(help="Start the decoder bias at the data's mean and subtract the pre-encoder bias.")
    ] = True
    labels: Annotated[
        Path | None, _anchor(help="Classes of the rows, from a file or a store: anchor at class means.")
    ] = None
    labels_key: Annotated[str | None, _anchor(help="Tensor or column of --labels.")] = None
    classes: Annotated[
        str | None, _anchor(help='Classes to anchor, as "cat,dog". [default: all]', show_default=False)
    ] = None
    anchors_file: Annotated[
        Path | None, _anchor("--anchors", help="Anchors of `monosem anchors`.", show_default=False)
    ] = None
    anchors_weight: Annotated[
        float | None, _anchor(help="Weight of the anchoring term. [default: the form's]", show_default=False)
    ] = None
    printed: Annotated[bool, _anchor("--printed", help="Anchor as the paper prints it: both sides, no start.")] = False
    hard: Annotated[bool, _anchor("--hard", help="Freeze anchored latents.")] = False
    steps: Annotated[int, _training(help="Optimiser steps.")] = 2000
    batch: Annotated[int, _training(help="Rows per step.")] = 512
    lr: Annotated[float, _training(help="Adam's learning rate.")] = 1e-3
    seed: Annotated[int, _training(help="Seed for initial weights and the order of rows.")] = 0
    clip: Annotated[float | None, _training(help="Largest gradient norm.")] = None
    checkpoint_every: Annotated[int, _training(help="Steps between checkpoints.")] = 500
    threads: Annotated[int | None, _training(help="Torch threads.")] = None
    selection: Annotated[str, _training(help="fp32, or bf16: exact selection from a bfloat16 product.")] = "fp32"
    dense: Annotated[str, _training(help="fp32, or bf16: products of dense codes in bfloat16.")] = "fp32"
    device: Annotated[str, _training(help="cpu or cuda.")] = "cpu"


@command_of(TrainOptions)
def train(o: TrainOptions) -> None:
    """Train a method on your own activations; called again, it resumes from its last checkpoint."""
    from monosem.base.files import claim

    with claim(o.out_folder):
        _train(o)


def _train(o: TrainOptions) -> None:
    from monosem.data.source import open_rows
    from monosem.data.store import is_store
    from monosem.data.trained import notes_of
    from monosem.train.loop import fit

    chosen, config, folder = _chosen(o), _config(o), o.out_folder
    stored = is_store(o.data)
    if not stored:
        _agree(chosen.pairing, o.target is not None, o.widths)
    named = {name: getattr(o, name) for name in ("read", "write", "key", "target_key", "labels", "labels_key")}
    named["widths"] = _numbers("--widths", o.widths)
    named["target_widths"] = _numbers("--target-widths", o.target_widths)
    with err().status(f"checking {o.data}"):
        source = open_rows(o.data, o.target, pairing=chosen.pairing, **named)
        if stored if o.normalise is None else o.normalise:
            source.normalised()
        notes = notes_of(source, o.anchors_file, split_names(o.classes), o.labels)
    anchors = notes.anchors
    shape = f"{source.rows:,} rows, n_p={sum(source.p_widths)}, n_r={sum(source.r_widths)}"
    with_anchors = f", {anchors.k} anchors ({anchors.kind})" if anchors else ""
    say(f"{chosen.spec} on {shape}, n_q={o.n_q}{with_anchors}")
    if (folder / "checkpoint.safetensors").exists():
        say(f"{folder} holds a checkpoint of an earlier call; resuming from there", "dim")
    chosen = _centred(chosen) if o.centre else chosen
    result = fit(chosen, source, o.n_q, config, anchors, out=folder, progress=True)
    notes.keep(folder)
    try:
        _summary(result, source, anchors, folder)
    except MonosemError as error:
        say(f"trained and saved in {folder}; it cannot be scored: {error}", "yellow")


def _chosen(o: TrainOptions) -> "Method":
    """The method with the form of anchoring that is asked for."""
    from dataclasses import replace

    from monosem.anchors.term import PRINTED, Anchoring
    from monosem.methods import method, with_anchoring

    form = replace(PRINTED if o.printed else Anchoring(), hard=o.hard)
    form = form if o.anchors_weight is None else replace(form, weight=o.anchors_weight)
    return with_anchoring(method(o.method), form)


def _config(o: TrainOptions) -> "FitConfig":
    from monosem.train.config import FitConfig

    same = ("steps", "lr", "seed", "clip", "checkpoint_every", "threads", "selection", "dense", "device")
    return FitConfig(batch_size=o.batch, **{name: getattr(o, name) for name in same})


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


def _summary(result: "Result", source: "FileSource", anchors: "Anchors | None", folder: Path) -> None:
    import torch

    from monosem.bench.folds import Coded, evaluate
    from monosem.cli.tables import values_table

    x_p, x_r = source.sample(8192)
    with torch.no_grad():
        outputs = [result.model(part) for part in torch.split(x_p, 1024)]
        targets = torch.split(x_r, 1024)
        scores = evaluate(Coded(y, o.x_r_hat, o.code) for y, o in zip(targets, outputs, strict=True))
    facts = {
        "FVU": f"{scores['fvu']:.4f}",
        "L0": f"{scores['l0']:.1f} of {result.model.n_q} latents",
        "dead": f"{scores['dead']:.1%} of latents never fire",
    }
    if anchors is not None:
        W_D = torch.nn.functional.normalize(result.model.W_D.detach()[:, : anchors.k], dim=0)
        kept = (W_D * anchors.r).sum(0)
        facts["anchors"] = f"{anchors.k}, the first latents; cosine with their anchors {kept.mean():.3f} on average"
    facts |= {
        "time": f"{result.seconds:.1f} s in this call",
        "saved": f"{folder} (model.safetensors, config.json, log.jsonl, checkpoint.safetensors)",
        "next": f"in Python: monosem.load_model({str(folder)!r}).W_D, a column per feature",
    }
    out().print(values_table(facts, f"trained; scores on {x_p.shape[0]:,} of {source.rows:,} rows it was trained on"))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)
