"""How long `import monosem` takes beside `import torch`: fresh interpreters, in turns, so that noise hits both."""

import argparse
import statistics
import subprocess
import sys


def seconds(module: str) -> float:
    """The seconds that importing `module` takes in a fresh interpreter."""
    program = f"from time import perf_counter as t; a = t(); import {module}; print(t() - a)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print both medians, and the median, lowest and highest ratio over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for module in ("torch", "monosem"):
        seconds(module)  # writes byte code and warms the disk's cache
    pairs = [(seconds("torch"), seconds("monosem")) for _ in range(rounds)]
    ratios = [monosem / torch for torch, monosem in pairs]
    print(f"import torch    {statistics.median(torch for torch, _ in pairs):.3f} s (median of {rounds})")
    print(f"import monosem  {statistics.median(monosem for _, monosem in pairs):.3f} s")
    print(f"ratio           {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
