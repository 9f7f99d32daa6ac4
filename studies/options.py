"""The command line of a study that is no table of the paper."""

import argparse
from pathlib import Path


class Options(argparse.ArgumentParser):
    """Options of `python -m studies STUDY`; each keyword is a number that explains itself, with its default."""

    def __init__(self, study: str, **numbers: float) -> None:
        super().__init__(prog=f"python -m studies {study}")
        for name, default in numbers.items():
            self.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)

    def number(self, name: str, default: int | None, text: str) -> None:
        """An integer that needs a word."""
        self.add_argument(name, type=int, default=default, help=text)

    def path(self, name: str, default: str | None = None, text: str | None = None) -> None:
        """A file or a folder."""
        self.add_argument(name, type=Path, default=default and Path(default), help=text)
