"""`monosem sample`: texts drawn from a language model itself, to a file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import err, fail, out, say
from monosem.cli.harvest import rate_bar


def sample(
    model: Annotated[str, typer.Option(help="A transformers folder or a known network.", show_default=False)],
    out_file: Annotated[Path, typer.Option("--out", help="A .jsonl file.", show_default=False)],
    documents: Annotated[int, typer.Option(help="How many texts.")] = 1200,
    tokens: Annotated[int, typer.Option(help="Most tokens of one.")] = 255,
    temperature: Annotated[float, typer.Option(help="Of the distribution that tokens are drawn from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Draw texts from a language model itself, for one that knows no other text (stories15m)."""
    import torch

    from monosem.base.files import write_atomic
    from monosem.networks.models import open_network
    from monosem.networks.sampling import sample_texts

    if threads is not None:
        torch.set_num_threads(threads)
    if out_file.suffix != ".jsonl":
        fail(f"--out {out_file} is no .jsonl file; name it so")
    if out_file.exists():
        say(f"{out_file} is there already; delete it to draw again", "yellow")
        return
    with err().status("reading the network"):
        network, tokenizer = open_network(model)
    lines = []
    with rate_bar(documents, "texts") as progress:
        for text in sample_texts(network, tokenizer, documents, tokens, temperature=temperature, seed=seed):
            lines.append(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            progress(len(lines), len(lines))
    write_atomic(out_file, "".join(lines).encode())
    out().print(f"{len(lines):,} texts in {out_file}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sample)
