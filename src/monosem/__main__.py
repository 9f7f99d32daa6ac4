"""`python -m monosem` is the command line."""

from monosem.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
