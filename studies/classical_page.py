"""docs/classical.md and its figure, from records alone: python -m studies.classical_page."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem.bench.records import read_records
from monosem.report.interval import Interval, interval
from monosem.report.style import GREY, INK, PALETTE, plain_axes, to_svg

RECORDS, PAGE = Path("records/classical"), Path("docs/classical.md")
FIGURE = PAGE.parent / "figures" / "classical.svg"
GT, IP = "decoder_cosine.M_GT@0.95", "decoder_cosine.M_IP"
LEARNERS = ("mod", "ksvd", "itkrm", "online", "batch_lasso", "fast_ica")
WORLDS = {
    "mini": "lrb/mini: 125 features in 96 dimensions, true L0 1.25",
    "mini-hard": "lrb/mini-hard: 300 features in 96 dimensions, true L0 6, 1400 rows",
    "square": "64 features in 96 dimensions, true L0 3.2: fewer features than dimensions",
}
TEXT = """\
# Classical dictionary learning

Sparse autoencoders are one way to learn a dictionary; others were there before them. This page lets the older ones
run on the same rows and scores them in the same way, and asks what a trained model loses through its encoder.

All of them look for the model that the data have:

    x_p ~ D z,   z >= 0 sparse,   columns of D of unit length

`monosem.dictionary.classical.CLASSICAL` holds them by name, all with one signature, `learn(x, n_atoms, k= or l1=,
iterations=, seed=) -> D`; a new one is a function and a line.

| learner | a pass | sparse codes by |
|---|---|---|
| `mod` | codes, then D = argmin over D of the squared error | nonnegative OMP (`k`) or lasso (`l1`) |
| `ksvd` | codes, then each atom in turn with its coefficients: the best rank-one fit | nonnegative OMP (`k`) |
| `itkrm` | each atom becomes the mean of what its rows' other atoms leave of them | the `k` largest products |
| `online` | scikit-learn's `MiniBatchDictionaryLearning` | lasso, positive (`l1`) |
| `batch_lasso` | scikit-learn's `DictionaryLearning` | lasso, positive (`l1`) |
| `fast_ica` | scikit-learn's `FastICA`; n <= n_p only | none |

Unused atoms, and the less used of two that nearly coincide, are replaced by what is left of badly explained rows
(`mod`, `ksvd`, `itkrm`), until the last quarter of the passes.

What it shows. With plenty of rows nearly everything recovers `lrb/mini`. On `lrb/mini-hard`, with few rows, K-SVD
and MOD with OMP codes are on average ahead of every plain SAE recipe of the bench, within seconds, and more so with
twice as many atoms as features; ITKrM recovers the two sparser worlds and little of this one. Read it with this in
mind:

- *told*: n atoms, which a user would not know. With 2 n the extra atoms are wrong or copies, so the share of atoms that
  are features ("atoms right") is about a half: these learners find features but do not say which atoms are features.
- k and l1 were chosen, like the SAE recipes, by recovery on worlds 100 and 101 (`records/classical/sweep.json`), with
  the truth at hand; two SAE recipes on `lrb/mini-hard`, Matryoshka and BatchTopK, were chosen below their best
  ([defaults](defaults.md)), and a Matryoshka with k = 3 did reach about as much on those worlds.
- SAEs have 2000 latents and an encoder that codes new rows in one product; these have none.
- ICA needs no k and no penalty where n <= n_p, and cannot be asked where n > n_p.

"""
GAPS = """\
## What the encoder loses, and what the dictionary loses

`monosem.dictionary.amortisation.model_amortisation` codes held-out rows three times on the decoder of a trained model:
by its own encoder, by nonnegative OMP and by the nonnegative lasso (FISTA), each solver at the same mean L0. F1 says
how well the latents that fire tell which features are present:

    amortisation gap = F1(best solver on W_D) - F1(encoder)             at the encoder's L0
    dictionary gap   = F1(best solver on W_r) - F1(best solver on W_D)  at the true L0

It counts in two ways. *matched*: latents and features paired one to one at |cos| > .95; a latent without a feature is
wrong whenever it fires. *best*: each feature is read off its nearest latent, and other latents cost nothing.

"""


@dataclass(frozen=True)
class Row:
    """One line of a table: the runs of one learner, size and setting, or of one SDL method."""

    label: str
    atoms: int
    kind: str
    runs: tuple[dict[str, Any], ...]

    def value(self, metric: str) -> Interval:
        """Mean and interval over worlds."""
        return interval(run[metric] for run in self.runs)


def classical_rows(name: str) -> list[Row]:
    """Told and not told, in the order of LEARNERS."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for run in json.loads((RECORDS / f"{name}.json").read_text())["runs"].values():
        flat = run["metrics"] | {"seconds": run["seconds"], "rows": run["rows"], "chance": run["chance"][IP]}
        groups[run["learner"], run["n_atoms"]].append(flat | {"setting": run["setting"]})
    least = {learner: min(n for other, n in groups if other == learner) for learner, _ in groups}
    order = sorted(groups, key=lambda key: (LEARNERS.index(key[0]), key[1]))
    return [Row(who, n, "told" if n == least[who] else "not told", tuple(groups[who, n])) for who, n in order]


def sdl_rows(name: str) -> list[Row]:
    """Plain runs of SAEs in the same worlds, from the bench's own records."""
    folder = RECORDS.parent / name
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for record in read_records(folder) if folder.is_dir() else []:
        if record["anchors"] is None and record["task"]["pairing"] == "sae" and record["seed"]["world"] < 3:
            flat = {key: entry["value"] for key, entry in record["metrics"].items()}
            key = record["method"]["name"], record["task"]["spec"]["n_q"]
            groups[key].append(flat | {"seconds": record["wall_time_s"], "setting": record["method"]["spec"]})
    return [Row(label, n, "SDL", tuple(runs)) for (label, n), runs in groups.items()]


def _rows(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(rows: list[Row]) -> str:
    """What each reaches."""
    cells = []
    for row in rows:
        setting = row.runs[0]["setting"]
        shown = setting if isinstance(setting, str) else ", ".join(f"{k} = {v}" for k, v in setting.items()) or "-"
        right = row.value("atoms_right").text(2) if "atoms_right" in row.runs[0] else "-"
        numbers = [row.value(GT).text(), row.value(IP).text(), row.value("decoder_signed.M_IP").text(), right]
        where = {"told": "n", "not told": "not told n", "SDL": "SDL"}[row.kind]
        name = "" if row.kind == "SDL" else f"`{row.label}`"
        cells.append([f"{name} `{shown}`".strip() if row.kind == "SDL" else name, shown if name else "", where])
        cells[-1] += [str(row.atoms), *numbers, str(len(row.runs)), f"{row.value('seconds').mean:.0f}"]
    head = (
        "learner",
        "setting",
        "told",
        "atoms",
        "M_GT(.95)",
        "M_IP",
        "signed M_IP",
        "atoms right",
        "worlds",
        "seconds",
    )
    return _rows(head, cells)


def facts(name: str) -> str:
    """What the runs of a world have in common."""
    record = json.loads((RECORDS / f"{name}.json").read_text())
    runs, env = list(record["runs"].values()), record["env"]
    held = next(iter(record["tasks"].values()))["held_out"]
    chance = interval(run["chance"][IP] for run in runs)
    return (
        f"{runs[0]['rows']} rows; scored: all features but the first {held} of the anchor order; random directions: "
        f"M_IP {chance.mean:.2f}; `{record['command']}`, one thread; seconds are of the processor (SDL: of the clock); "
        f"{env['cpu']}, torch {env['torch']}, scikit-learn {env['scikit_learn']}, commit {str(env['commit'])[:12]}."
    )


def _panel(axes: Axes, rows: list[Row], title: str) -> None:
    labels = list(dict.fromkeys(row.label for row in rows))[::-1]
    for row in rows:
        value = row.value(GT)
        colour = {"told": PALETTE[0], "not told": PALETTE[0], "SDL": PALETTE[3]}[row.kind]
        y = labels.index(row.label) + {"told": 0.14, "not told": -0.14, "SDL": 0.0}[row.kind]
        axes.errorbar(
            value.mean,
            y,
            xerr=value.half,
            color=colour,
            marker="s" if row.kind == "SDL" else "o",
            markerfacecolor="white" if row.kind == "told" else colour,
            capsize=2.5,
            linewidth=1.3,
            markersize=5.5,
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_xlim(-0.04, 1.04)
    axes.set_title(title, color=INK, loc="left")
    axes.set_xlabel("M_GT(0.95)", color=INK)
    plain_axes(axes)


def figure(found: dict[str, list[Row]]) -> Figure:
    """Recovery by method, a panel per world."""
    drawn = Figure(figsize=(10.5, 4.6), layout="constrained")
    titles = {"mini": "lrb/mini", "mini-hard": "lrb/mini-hard", "square": "64 features, 96 dimensions"}
    grid = drawn.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, rows) in zip(grid, found.items(), strict=True):
        _panel(axes, rows, titles[name])
    marks = [
        Line2D([], [], color=PALETTE[0], marker="o", markerfacecolor="white", linestyle="", label="classical, n atoms"),
        Line2D([], [], color=PALETTE[0], marker="o", linestyle="", label="classical, 2 n atoms (ICA: n_p)"),
        Line2D([], [], color=PALETTE[3], marker="s", linestyle="", label="SAEs of the bench, 2000 latents"),
    ]
    drawn.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)
    for axes in grid:
        axes.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
    return drawn


def gaps() -> str:
    """The amortisation table."""
    record = json.loads((RECORDS / "amortisation.json").read_text())
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in record["runs"].values():
        groups[run["method"]].append(run)
    rows = []
    for method, runs in groups.items():
        for way in ("matched", "best"):

            def over(*path: str, here: list[dict[str, Any]] = runs) -> str:
                values = []
                for run in here:
                    value: Any = run
                    for name in path:
                        value = value[name]
                    values.append(float(value))
                return interval(values).text(2)

            ends = [over("encoder", way, "f1"), *(over("at_encoder_l0", s, way, "f1") for s in ("omp", "lasso"))]
            ends += [over("amortisation_gap", way), *(over("at_true_l0", s, way, "f1") for s in ("omp", "lasso"))]
            ends += [*(over("ceiling", s, way, "f1") for s in ("omp", "lasso")), over("dictionary_gap", way)]
            rows.append([f"`{method}`", way, over("encoder", "l0"), *ends])
    head = ("model", "F1", "L0", "encoder", "OMP", "lasso", "**amortisation gap**", "OMP, true L0", "lasso, true L0")
    env = record["env"]
    counts = ", ".join(f"{len(runs)} of `{method.split('(')[0]}`" for method, runs in groups.items())
    note = (
        f"\n\nThe bench's defaults on `{record['task']}`, {record['rows']} held-out rows; worlds run: {counts}; "
        f"`{record['command']}`, commit {str(env['commit'])[:12]}."
    )
    return _rows((*head, "OMP on W_r", "lasso on W_r", "**dictionary gap**"), rows) + note


def at_paper_size() -> str:
    """One line per learner that was run there."""
    path = RECORDS / "paper.json"
    record = json.loads(path.read_text()) if path.is_file() else {"runs": {}}
    done = [
        f"`{name}`, {run['n_atoms']} atoms, {run['rows']} rows, {run['iterations']} passes: M_GT(.95) "
        f"{run['metrics'][GT]:.3f}, M_IP {run['metrics'][IP]:.3f}, {run['seconds']:.0f} s"
        for name, run in record["runs"].items()
    ]
    left = [name for name in ("mod", "ksvd") if name not in record["runs"]]
    text = "At the paper's size (world 0, n told): " + "; ".join(done) + "." if done else ""
    return (
        text + (f" Not run: {', '.join(left)} (`python -m studies.classical paper {' '.join(left)}`)." * bool(left))
    ).strip()


def main() -> None:
    """Write the page and the figure."""
    there = [name for name in WORLDS if (RECORDS / f"{name}.json").is_file()]
    found = {name: classical_rows(name) + sdl_rows(name) for name in there}
    drawn = figure(found)
    FIGURE.write_text(to_svg(drawn, "Recovery of classical learners and of SAEs in three worlds"))
    page = "<!-- Generated from records by `python -m studies.classical_page`; do not edit. -->\n\n" + TEXT
    page += at_paper_size() + "\n\n"
    page += f"![recovery of classical learners and SAEs](figures/{FIGURE.name})\n\n"
    for name in found:
        page += f"## {WORLDS[name]}\n\n{facts(name)}\n\n{table(found[name])}\n\n"
    page += GAPS + gaps() + "\n"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
