"""`monosem evaluate`: score a trained model on a task of the bench."""

import json
from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import err, fail, out

__all__ = ["evaluate", "register"]


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model.", show_default=False)],
    task: Annotated[str, typer.Option(help="Task; `monosem list tasks` names them.", show_default=False)],
    pairing: Annotated[
        str | None, typer.Option(help="sae, transcoder or crosscoder. [default: the model's]", show_default=False)
    ] = None,
    world: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
    held_out: Annotated[
        int | None,
        typer.Option(help="Leave out the first so many features of the anchoring order. [default: the task's]"),
    ] = None,
    rows: Annotated[int, typer.Option(help="Held-out rows for FVU, L0 and dead latents.")] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a model against the true features of a task: four similarities, matching, codes, chance and oracle."""
    from monosem.bench.baselines import chance, oracle
    from monosem.bench.records import metrics_table
    from monosem.bench.run import evaluate_model, pairing_of
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
        beside = {"chance": chance(source, features=features), "oracle": oracle(source, rows=min(rows, 1024))}
        metrics = metrics_table(evaluate_model(model, source, features, rows), **beside)
    if as_json:
        told = {"model": str(folder), "method": spec, "task": task, "pairing": pairing, "world": world}
        typer.echo(json.dumps(told | {"scored": features.numel(), "metrics": metrics}, indent=1, sort_keys=True))
        return
    title = f"{spec or folder} on {task}, {pairing}, world {world}: {features.numel()} features"
    out().print(score_table(metrics, title))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)
