"""`python -m monosem` is the command line."""

from monosem.cli import main

if __name__ == "__main__":
    main()
