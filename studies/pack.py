"""Put loose records into a packed file: python -m studies pack FOLDER FILE."""

from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import out


def pack(
    folder: Annotated[Path, typer.Argument(help="Folder of loose records, as runs/studies/paper.")],
    file: Annotated[Path, typer.Argument(help="Packed file to add them to, as studies/records/study-paper.jsonl.gz.")],
    maps: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep the heat map of the first run of every arm of this study; repeat it.", show_default=False
        ),
    ] = None,
) -> None:
    """Add loose records to a packed file: sorted, one a run (the last made), whole or not at all. Loose files stay."""
    from monosem.base import DataError, check
    from monosem.bench import PACKED, SUFFIX, pack_records, read_records
    from studies.stored import pack_documents

    check(folder.is_dir(), f"{folder} is not a folder; give the one that holds the loose records", DataError)
    check(file.name.endswith(PACKED), f"{file} does not end in {PACKED}; name a packed file", DataError)
    runs = any(folder.rglob(f"*{SUFFIX}"))
    count = len(pack_records(file, read_records(folder), maps or ())) if runs else len(pack_documents(file, folder))
    out().print(f"{file}: {count} {'runs' if runs else 'records'}, {file.stat().st_size:,} bytes", highlight=False)
