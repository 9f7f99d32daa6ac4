"""`python -m benchmarks`: whole training steps, ours and other libraries', in turns."""

import typer

from benchmarks import command
from monosem.cli.console import Commands


def main() -> None:
    """Run the command."""
    app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(command.speed)
    app(prog_name="python -m benchmarks")


if __name__ == "__main__":
    main()
