"""`monosem train`: train a method on real representations from files."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, out, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from monosem.anchors.directions import Anchors
    from monosem.data.source import FileSource
    from monosem.data.table import Labels
    from monosem.methods import Method
    from monosem.train.loop import Result

_data = partial(typer.Option, rich_help_panel="Data")
_anchor = partial(typer.Option, rich_help_panel="Anchors")
_training = partial(typer.Option, rich_help_panel="Training")


def train(
    data: Annotated[
        Path,
        typer.Option(
            help="Representations x_p, a row each: .npy, .safetensors or .parquet; or a store of `monosem harvest`.",
            show_default=False,
        ),
    ],
    method: Annotated[str, typer.Option(help='A method, as "topk(k=32)"; `monosem list methods` names them.')],
    n_q: Annotated[int, typer.Option("--n-q", help="Number of latents.", show_default=False)],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the model, its log and its checkpoint.")],
    target: Annotated[
        Path | None,
        _data(help="Representations x_r of the same inputs, for a transcoder."),
    ] = None,
    key: Annotated[
        str | None,
        _data(help="Tensor of a .safetensors file, or columns of a .parquet one."),
    ] = None,
    target_key: Annotated[str | None, _data(help="The same for --target.")] = None,
    widths: Annotated[
        str | None,
        _data(help='Widths of several sources side by side, as "384,384".'),
    ] = None,
    target_widths: Annotated[str | None, _data(help="The same for --target.")] = None,
    read: Annotated[str | None, _data(help="Sites of a store to read, where it leaves a choice.")] = None,
    write: Annotated[str | None, _data(help="Sites of a store to write, for a transcoder.")] = None,
    normalise: Annotated[
        bool | None,
        _data(
            help="Train on centred rows of mean norm sqrt(n), folded into the saved weights. [default: for a store]",
            show_default=False,
        ),
    ] = None,
    centre: Annotated[
        bool,
        _data(help="Start the decoder bias at the data's mean and subtract the pre-encoder bias."),
    ] = True,
    labels: Annotated[
        Path | None,
        _anchor(help="One class per row (a file, or a store with labels); latents are anchored at class means."),
    ] = None,
    labels_key: Annotated[str | None, _anchor(help="As --key.")] = None,
    classes: Annotated[str | None, _anchor(help='Anchor only these classes, as "cat,dog".')] = None,
    anchors_file: Annotated[
        Path | None, _anchor("--anchors", help="Anchors that `monosem anchors` wrote.", show_default=False)
    ] = None,
    anchors_weight: Annotated[
        float | None, _anchor(help="Weight of the anchoring term. [default: the form's]", show_default=False)
    ] = None,
    printed: Annotated[bool, _anchor("--printed", help="Anchor as the paper prints it: both sides, no start.")] = False,
    hard: Annotated[bool, _anchor("--hard", help="Freeze anchored latents.")] = False,
    steps: Annotated[int, _training(help="Optimiser steps.")] = 2000,
    batch: Annotated[int, _training(help="Rows per step.")] = 512,
    lr: Annotated[float, _training(help="Adam's learning rate.")] = 1e-3,
    seed: Annotated[int, _training(help="Seed.")] = 0,
    clip: Annotated[float | None, _training(help="Largest gradient norm.")] = None,
    checkpoint_every: Annotated[int, _training(help="Steps between checkpoints.")] = 500,
    threads: Annotated[int | None, _training(help="Torch threads.")] = None,
    selection: Annotated[str, _training(help="fp32, or bf16: exact selection from a bfloat16 product.")] = "fp32",
    dense: Annotated[str, _training(help="fp32, or bf16: products of dense codes in bfloat16.")] = "fp32",
    device: Annotated[str, _training(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a method on your own representations; called again, it goes on from its last checkpoint."""
    from dataclasses import replace

    from monosem.anchors.term import PRINTED, Anchoring
    from monosem.base.files import write_json
    from monosem.data.source import StoreSource, open_source, sites_for
    from monosem.data.store import is_store, open_store
    from monosem.methods import method as read_method
    from monosem.methods import with_anchoring
    from monosem.train.config import FitConfig
    from monosem.train.loop import fit

    plan = replace(PRINTED if printed else Anchoring(), hard=hard)
    plan = plan if anchors_weight is None else replace(plan, weight=anchors_weight)
    chosen = with_anchoring(read_method(method), plan)
    config = FitConfig(
        steps=steps,
        batch_size=batch,
        lr=lr,
        seed=seed,
        clip=clip,
        checkpoint_every=checkpoint_every,
        threads=threads,
        selection=selection,  # type: ignore[arg-type]  # FitConfig checks it
        dense=dense,  # type: ignore[arg-type]
        device=device,
    )
    stored = is_store(data)
    if stored:
        options = {"--target": target, "--key": key, "--target-key": target_key, "--widths": widths}
        _nothing("a store knows its sites", options | {"--target-widths": target_widths})
    else:
        _nothing(f"{data} is no store", {"--read": read, "--write": write})
        _agree(method, target is not None, widths)
    with err().status(f"checking {data}"):
        source: FileSource
        if stored:
            store = open_store(data)
            source = StoreSource(store, *sites_for(chosen.pairing, store, read, write), normalise=False)
        else:
            source = open_source(
                data,
                target,
                key=key,
                target_key=target_key,
                widths=_numbers("--widths", widths),
                target_widths=_numbers("--target-widths", target_widths),
            )
        if stored if normalise is None else normalise:
            source.normalised()
        anchors = _anchors(source, anchors_file, labels, labels_key, classes, out_folder)
    shape = f"{source.rows:,} rows, n_p={sum(source.p_widths)}, n_r={sum(source.r_widths)}"
    with_anchors = f", {anchors.k} anchors ({anchors.kind})" if anchors else ""
    say(f"{chosen.spec} on {shape}, n_q={n_q}{with_anchors}")
    if (out_folder / "checkpoint.safetensors").exists():
        say(f"{out_folder} holds a checkpoint of an earlier call; going on from there", "dim")
    chosen = _centred(chosen) if centre else chosen
    if isinstance(source, StoreSource):
        write_json(out_folder / "source.json", {"store": str(data), "read": source.read, "write": source.write})
    result = fit(chosen, source, n_q, config, anchors, out=out_folder, progress=True)
    _summary(result, source, anchors, out_folder)


def _nothing(why: str, options: "Mapping[str, object]") -> None:
    """None of these options is given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        fail(f"{why}; leave out {', '.join(given)}")


def _agree(method: str, has_target: bool, widths: str | None) -> None:
    """The method's name, --target and --widths say the same about what is read and written."""
    name = method.partition("(")[0].strip()
    written = name.endswith(("transcoder", "cross_layer"))
    if written and not has_target:
        fail(f"{name} writes another representation than it reads; give it with --target")
    if has_target and not written:
        fail(f"{name} writes what it reads, but --target is given; use {name.removesuffix('_crosscoder')}_transcoder")
    if name.endswith(("crosscoder", "cross_layer")) and widths is None:
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


def _anchors(
    source: "FileSource",
    given: Path | None,
    labels: Path | None,
    key: str | None,
    classes: str | None,
    folder: Path,
) -> "Anchors | None":
    """Anchors of a file, or class means; kept beside the model with the names of their classes."""
    from monosem.anchors.directions import load_anchors
    from monosem.base.files import read_json, write_json
    from monosem.data.class_means import class_anchors
    from monosem.data.store import is_store
    from monosem.data.table import read_labels

    if labels is None:
        if classes is not None:
            fail("--classes chooses among labels; give them with --labels")
        if given is None:
            return None
        anchors, beside = load_anchors(given), given.with_suffix(".json")
        anchors.save(folder / "anchors.safetensors")
        if beside.exists():
            write_json(folder / "anchors.json", read_json(beside))
        return anchors
    if given is not None:
        fail("--anchors and --labels both give anchors; leave one out")
    found = _stored_labels(labels) if is_store(labels) else read_labels(labels, source.rows, key)
    if found.codes.numel() != source.rows:
        fail(f"{labels} labels {found.codes.numel():,} rows, the data have {source.rows:,}; give one label per row")
    names = [name.strip() for name in classes.split(",")] if classes else list(found.names)
    anchors = class_anchors(source, found, names)
    anchors.save(folder / "anchors.safetensors")
    write_json(folder / "anchors.json", {"classes": names, "labels": str(labels)})
    return anchors


def _stored_labels(folder: Path) -> "Labels":
    from monosem.data.store import open_store

    found = open_store(folder).labels
    if found is None:
        fail(f"{folder} holds no labels; harvest it again with --labels FIELD, or give a file")
    return found


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
