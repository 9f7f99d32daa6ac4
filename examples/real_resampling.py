"""Dead latents on a real network: what AuxK, resampling and anchoring do about them (Tang et al. 2025, figure 7).

TopK sparse autoencoders on the residual stream of SmolLM2-135M (after layer 15, consumer complaints as text), five
ways, the same rows and seeds: no remedy, resampling of dead latents, AuxK, anchors at the mean rows of frequent tokens,
and encoder rows that start along their decoder columns. All others start with encoder rows of their own: with tied
ones hardly a latent dies at this size, which would leave nothing to remedy.

    monosem fetch smollm2 complaints
    python examples/real_resampling.py                              # a small run, some minutes on one core
    python examples/real_resampling.py --rows 100000 --n-q 4608 --seeds 3

`monosem study figure7` runs the size of the documentation. Run again, it goes on where it stopped; --report only
prints the table and draws the figure. A latent is dead when it has not fired for --window tokens. Rows a hundred times
longer than the others (the first token's of every text, and a few) are left out: one of them would outweigh all others
of a batch.
"""

import argparse
from pathlib import Path

import torch

from monosem.base.files import write_atomic
from monosem.bench.records import read_record, read_records
from monosem.report.style import to_svg
from studies.real.resampling import RemedySize, remedy_jobs
from studies.report.study_real import real_figure, real_markdown


def main() -> None:
    """Harvest, train, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--n-q", type=int, default=1152)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--window", type=int, default=10_000, help="tokens without firing that make a latent dead")
    parser.add_argument("--anchors", type=int, default=64, help="frequent tokens that anchor latents")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real-resampling"))
    parser.add_argument("--figure", type=Path, help="default: figure.svg in --out")
    parser.add_argument("--report", action="store_true", help="only the table and the figure of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        size = RemedySize(
            rows=options.rows,
            n_q=options.n_q,
            k=options.k,
            steps=options.steps,
            batch=options.batch,
            lr=options.lr,
            window=options.window,
            anchors=options.anchors,
            seeds=options.seeds,
        )
        jobs = remedy_jobs(size, options.first_seed)
        jobs[0].prepare(lambda line: print(line, flush=True))
        for job in jobs:
            record = read_record(job.run(options.out))
            fvu, dead = record["metrics"]["fvu"]["value"], record["training"]["dead"][-1]
            print(f"{job.arm:<12} seed {job.seed}  fresh rows: FVU {fvu:.4f}  dead at the end {dead:.1%}", flush=True)
    records = [record for record in read_records(options.out) if record["study"] == "real-resampling"]
    print(f"\n{real_markdown('figure7', records)}")
    figure = real_figure("figure7", records)
    if figure is not None:
        title = "Dead latents and error over training, with no remedy and with four"
        write_atomic(options.figure or options.out / "figure.svg", to_svg(figure, title).encode())


if __name__ == "__main__":
    main()
