"""The command line: parsing only, everything it does lives in the layers below."""

import sys


def main() -> None:
    """The console entry point `monosem`."""
    try:
        from monosem.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f'error: the command line needs {error.name}; pip install "monosem[cli]"', file=sys.stderr)
        sys.exit(2)
    app()
