"""`monosem evaluate`: score a trained model on a task of the bench, or on the network that it was trained on."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import err, fail, out, set_threads

_on_task = partial(typer.Option, rich_help_panel="On a task, whose true features are known", show_default=False)
_on_network = partial(typer.Option, rich_help_panel="On a language model", show_default=False)


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model.", show_default=False)],
    task: Annotated[str | None, _on_task(help="Task; `monosem list tasks` names them.")] = None,
    pairing: Annotated[
        str | None, _on_task(help="sae, transcoder or crosscoder. [default: the model's]", show_default=False)
    ] = None,
    world: Annotated[int, _on_task(help="Seed of the world. [default: 0]")] = 0,
    held_out: Annotated[
        int | None, _on_task(help="Number of anchored features to leave out. [default: the task's]")
    ] = None,
    text: Annotated[list[Path] | None, _on_network("--text", help="Held-out texts: .txt, .jsonl or .parquet.")] = None,
    network: Annotated[
        str | None, _on_network(help="Language model: a folder or a known network. [default: that of its store]")
    ] = None,
    at: Annotated[
        str | None, _on_network(help='Sites, as "model.layers.5.mlp:in,out". [default: those of its store]')
    ] = None,
    to: Annotated[str | None, _on_network(help="Sites to write, where --at is only read.")] = None,
    each: Annotated[str, _on_network(help="One document of a .txt file: line, paragraph or file. [default: line]")] = (
        "line"
    ),
    field: Annotated[str, _on_network(help="Field or column that holds the text. [default: text]")] = "text",
    length: Annotated[int, _on_network(help="Most tokens of one window. [default: 256]")] = 256,
    rows: Annotated[int, typer.Option(help="Held-out rows, or tokens of the text, to score on.")] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    threads: Annotated[int | None, typer.Option(help="Torch threads.", show_default=False)] = None,
) -> None:
    """Score a model against a task's true features, or by what its network loses with the reconstruction in place.

    On a task: four similarities, matching, codes, chance and oracle. On a network: FVU, L0, dead latents, cosine;
    cross-entropy and KL of the next token with x_r_hat in the place of x_r; loss recovered against ablation.
    """
    set_threads(threads)
    on_network = bool(text) or network is not None or at is not None
    if (task is None) != on_network:
        fail("say on what: either --task TASK, or --text FILES with the network's --network and --at")
    if task is not None:
        _evaluate_on_task(folder, task, pairing, world, held_out, rows, as_json)
        return
    from monosem.cli.network import find_place, network_table, score_on_network

    if not text:
        fail("no text to score on; give --text FILES that the model was not trained on")
    place = find_place(folder, network, at, to)
    scores = score_on_network(folder, place, text, each, field, rows, length)
    if as_json:
        facts = {"model": str(folder), "network": place.network, "at": place.at, "to": place.to}
        typer.echo(json.dumps(facts | scores.plain(), indent=1, sort_keys=True))
        return
    out().print(network_table(scores, f"{folder} in {place.network}"))


def _evaluate_on_task(
    folder: Path, task: str, pairing: str | None, world: int, held_out: int | None, rows: int, as_json: bool
) -> None:
    from monosem.bench.records import metrics_table
    from monosem.bench.run import pairing_of
    from monosem.bench.task_scores import chance, evaluate_model, oracle
    from monosem.bench.tasks import SIDES, TaskSource
    from monosem.bench.tasks import task as find_task
    from monosem.cli.tables import score_table
    from monosem.core.io import load_config, load_model

    model, spec = load_model(folder), str(load_config(folder)["metadata"].get("method", ""))
    pairing = pairing or (pairing_of(spec) if spec else "sae")
    if pairing not in SIDES:
        fail(f"unknown pairing {pairing!r}; choose {', '.join(SIDES)}")
    value = find_task(task, pairing, world)
    source = TaskSource(value)
    have, wanted = (model.layout.n_p, model.layout.n_r), (sum(source.p_widths), sum(source.r_widths))
    if have != wanted:
        fail(f"{folder} has (n_p, n_r) = {have}, {task} with {pairing} has {wanted}; choose the model's own task")
    with err().status(f"scoring on {task}"):
        features = value.scored(held_out)
        references = {"chance": chance(source, features=features), "oracle": oracle(source, rows=min(rows, 1024))}
        metrics = metrics_table(evaluate_model(model, source, features, rows), **references)
    if as_json:
        facts = {"model": str(folder), "method": spec, "task": task, "pairing": pairing, "world": world}
        typer.echo(json.dumps(facts | {"scored": features.numel(), "metrics": metrics}, indent=1, sort_keys=True))
        return
    title = f"{spec or folder} on {task}, {pairing}, world {world}: {features.numel()} features"
    out().print(score_table(metrics, title))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)
