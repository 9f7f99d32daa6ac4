"""Look at the latents of a language model: from stories to the page, by the four commands that a user would type.

    monosem fetch stories15m
    python examples/inspect_stories.py --out runs/stories        # sampling takes longest; called again, it goes on
    python examples/inspect_stories.py --texts stories.jsonl     # with stories that were drawn before

stories15M knows simple stories only, so its text is drawn from itself (`monosem sample`, once). Then the residual
stream behind its layer 3 is harvested, a TopK autoencoder is trained on it, and every latent gets its place on the
page, with the tokens that it promotes.
"""

import argparse
import subprocess
import sys
from pathlib import Path

SITE = "model.layers.3:out"


def monosem(*arguments: object) -> None:
    """One command, as in a terminal."""
    words = [str(argument) for argument in arguments]
    print("monosem", *words, flush=True)
    code = subprocess.run([sys.executable, "-m", "monosem", *words]).returncode
    if code:  # the command has said what is wrong
        raise SystemExit(code)


def main() -> None:
    """Sample, harvest, train, inspect; what is there already is not made again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/stories"))
    parser.add_argument("--texts", type=Path, help="a .jsonl file of stories instead of sampling")
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--method", default="topk(k=32)")
    parser.add_argument("--n-q", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1024)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    texts, store, model = options.texts or options.out / "stories.jsonl", options.out / "acts", options.out / "sae"
    if not texts.exists():
        monosem("sample", "--model", "stories15m", "--out", texts, "--documents", options.documents)
    monosem("harvest", "--model", "stories15m", "--at", SITE, "--text", texts, "--out", store)
    training = ("--n-q", options.n_q, "--steps", options.steps, "--batch", options.batch)
    monosem("train", "--data", store, "--method", options.method, *training, "--out", model)
    monosem("inspect", model, "--title", f"stories15M, {SITE}")


if __name__ == "__main__":
    main()
