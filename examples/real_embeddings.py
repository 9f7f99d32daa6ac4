"""Feature anchoring on real representations: do anchors at half of the classes help to find the other half?

Class means of labelled embeddings stand in for true features (Tang et al. 2025, section 4 and table 2). Half of the
classes anchor latents; the other half is held out. Each class scores the best |cos| of a decoder column with its mean:
plain and anchored, beside random directions and the anchors alone, counted over held-out, anchored and all classes
apart, because a count over all is mostly about what anchoring was told. "Joined" is the plain dictionary with the
anchors put beside it, untrained: what anchoring reaches beyond that was learned.

    python examples/real_embeddings.py --dataset digits --steps 50 --seeds 1       # no download: scikit-learn's digits
    monosem fetch ada40 && python examples/real_embeddings.py                      # 10,000 vectors, 40 classes
    monosem fetch newsgroups minilm && python examples/real_embeddings.py --dataset newsgroups
    monosem fetch cifar10 resnet50 && python examples/real_embeddings.py --dataset cifar10 --n-q 512 --steps 300

`monosem study table2` runs the sizes of the documentation; here every size can be chosen. One record per run; called
again it goes on. --report only prints the table and draws the figure of --out. Means are centred on the mean of all
class means, for anchors and for scores alike: raw ones nearly coincide.
"""

import argparse
from pathlib import Path

import torch

from monosem.base.files import write_atomic
from monosem.bench.records import read_record, read_records
from monosem.report.style import to_svg
from studies.real.classes import CLASS_SETS, ClassSize, class_jobs
from studies.report.study_real import real_figure, real_markdown


def main() -> None:
    """Prepare the data, train plain and anchored, and compare."""
    usual = ClassSize("ada40")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=CLASS_SETS, default=usual.data)
    parser.add_argument("--rows", type=int, help="use only so many rows")
    parser.add_argument("--n-q", type=int, default=usual.n_q)
    parser.add_argument("--k", type=int, default=usual.k)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--batch", type=int, default=usual.batch)
    parser.add_argument("--lr", type=float, default=usual.lr)
    parser.add_argument("--seeds", type=int, default=usual.seeds)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real-classes"))
    parser.add_argument("--figure", type=Path, help="default: figure.svg in --out")
    parser.add_argument("--report", action="store_true", help="only the table and the figure of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        size = ClassSize(
            options.dataset,
            options.n_q,
            options.k,
            options.steps,
            options.batch,
            options.lr,
            options.seeds,
            options.rows,
        )
        CLASS_SETS[options.dataset](options.rows, lambda line: print(line, flush=True))
        for job in class_jobs(size, options.first_seed):
            metrics = read_record(job.run(options.out))["metrics"]
            shown = [
                (part, metrics[f"{part}.decoder_cosine.M_IP"]["value"]) for part in ("held_out", "anchored", "all")
            ]
            scores = "  ".join(f"{part} {value:.3f}" for part, value in shown)
            print(f"{job.data} {job.name:<11} {job.arm:<8} seed {job.seed}: {scores}", flush=True)
    records = [record for record in read_records(options.out) if record["study"] == "real-classes"]
    print(f"\n{real_markdown('table2', records)}")
    figure = real_figure("table2", records)
    if figure is not None:
        title = "Class means found by plain and anchored dictionaries, held out and all"
        write_atomic(options.figure or options.out / "figure.svg", to_svg(figure, title).encode())


if __name__ == "__main__":
    main()
