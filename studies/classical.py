"""Classical dictionary learning on the bench, and solvers on trained dictionaries; records under records/classical/.

python -m studies.classical                 worlds 0 to 2 with the settings below, then the amortisation gaps
python -m studies.classical sweep           the settings' sweep, on worlds 100 and 101
python -m studies.classical paper NAME ...  one run per learner at the paper's size, 20000 rows
python -m studies.classical_page            docs/classical.md and its figure from the records

A run that is already in a record is kept. One thread.
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sklearn.decomposition
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from monosem.base.files import write_json
from monosem.bench.baselines import random_rows
from monosem.bench.defaults import fit_config, recipe
from monosem.bench.metrics import DUPLICATE_COSINE, Comparison, flatten, score
from monosem.bench.records import environment
from monosem.bench.tasks import Task, TaskSource, task
from monosem.bench.world import Independent, WorldSpec
from monosem.dictionary.amortisation import model_amortisation
from monosem.dictionary.classical import CLASSICAL
from monosem.train.loop import fit

OUT = Path("records/classical")
SEEDS, TUNING = (0, 1, 2), (100, 101)
SQUARE = Task("classical/square", 1, WorldSpec(64, (96,), 0.1, Independent(0.95), rows=10_000), n_q=128, anchors=0)
ROWS = {"lrb/mini": 10_000, "lrb/mini-hard": 1400, SQUARE.name: 10_000, "lrb/paper": 20_000}
HELD_OUT = {"lrb/mini-hard": 60}
"""Features set aside, as in the runs of SDL methods that stand beside; elsewhere none."""
PASSES = {"ksvd": 30, "mod": 30, "itkrm": 60, "online": 5, "batch_lasso": 10, "fast_ica": 200}
_ATOMS = {"lrb/mini": (1, 2, 3), "lrb/mini-hard": (3, 4, 5, 6), SQUARE.name: (2, 3, 4)}
_PENALTIES = (0.1, 0.2, 0.4)
GRID: dict[str, dict[str, tuple[dict[str, Any], ...]]] = {
    name: {
        **dict.fromkeys(("ksvd", "mod", "itkrm"), tuple({"k": k} for k in counts)),
        **dict.fromkeys(("online", "batch_lasso"), tuple({"l1": l1} for l1 in _PENALTIES)),
        "fast_ica": ({},),
    }
    for name, counts in _ATOMS.items()
}
CHOSEN: dict[str, dict[str, dict[str, Any]]] = {
    "lrb/mini": {
        "ksvd": {"k": 2},
        "mod": {"k": 2},
        "itkrm": {"k": 2},
        "online": {"l1": 0.4},
        "batch_lasso": {"l1": 0.4},
    },
    "lrb/mini-hard": {
        "ksvd": {"k": 5},
        "mod": {"k": 5},
        "itkrm": {"k": 3},
        "online": {"l1": 0.4},
        "batch_lasso": {"l1": 0.2},
    },
    SQUARE.name: {
        "ksvd": {"k": 3},
        "mod": {"k": 2},
        "itkrm": {"k": 2},
        "online": {"l1": 0.4},
        "batch_lasso": {"l1": 0.4},
        "fast_ica": {},
    },
}
"""Of GRID, what recovered most on worlds 100 and 101 (records/classical/sweep.json), sizes n and 2 n together."""


def world(name: str, seed: int) -> TaskSource:
    """A task of the bench, or the square one, in the world of one seed."""
    return TaskSource(SQUARE.with_seed(seed) if name == SQUARE.name else task(name, "sae", seed))


def sizes(learner: str, source: TaskSource) -> list[int]:
    """Told: n atoms. Not told: 2 n, or as many as the learner can find."""
    n, width = source.task.world.n, source.p_widths[0]
    if learner != "fast_ica":
        return [n, 2 * n]
    return [n, min(2 * n, width)] if n <= width else []


def learned(source: TaskSource, learner: str, n_atoms: int, setting: dict[str, Any], progress: bool = False) -> Any:
    """One run: the scores that a model gets, the share of atoms that are features, CPU seconds, and chance."""
    name, seed = source.task.name, source.task.world.seed
    x = source.take(torch.arange(ROWS[name]))[0]
    start = time.process_time()
    told = (lambda share, text: print(f"{share:.0%} {text}", flush=True)) if progress else None
    D = CLASSICAL[learner](x, n_atoms, **setting, iterations=PASSES[learner], seed=seed, progress=told)
    seconds = time.process_time() - start
    features = source.task.scored(HELD_OUT.get(name, 0))
    best = Comparison(D.T, D, source.W_p, source.W_r).best["decoder_cosine"]
    chance = random_rows(n_atoms, x.shape[1], seed, "chance/decoder").T
    return {
        "learner": learner,
        "n_atoms": n_atoms,
        "setting": setting,
        "iterations": PASSES[learner],
        "seed": seed,
        "rows": x.shape[0],
        "seconds": seconds,
        "metrics": flatten(score(D.T, D, source.W_p, source.W_r, features=features))[0]
        | {"atoms_right": float((best.latent_similarity > DUPLICATE_COSINE).double().mean())},
        "chance": flatten(score(chance.T, chance, source.W_p, source.W_r, features=features))[0],
    }


def opened(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """A record as far as it has come; its environment is that of the runs made from here on."""
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    return done | about | {"env": environment() | {"scikit_learn": version("scikit-learn")}}


def run_world(
    name: str, seeds: tuple[int, ...], path: Path, settings: Mapping[str, tuple[dict[str, Any], ...]]
) -> None:
    """Every learner, size and setting in the worlds of some seeds that is not in the record yet."""
    command = "python -m studies.classical" + (" sweep" if seeds == TUNING else "")
    done = opened(path, {"command": command, "seeds": list(seeds)})
    for seed in seeds:
        source = world(name, seed)
        done.setdefault("tasks", {})[name] = {"version": source.task.version, "held_out": HELD_OUT.get(name, 0)}
        for learner in CLASSICAL:
            for n_atoms in sizes(learner, source):
                for setting in settings[learner]:
                    run = f"{name} {learner} {n_atoms} {json.dumps(setting)} {seed}"
                    if run in done["runs"]:
                        continue
                    done["runs"][run] = found = {"task": name} | learned(source, learner, n_atoms, setting)
                    write_json(path, done)
                    print(
                        run,
                        f"{found['metrics']['decoder_cosine.M_GT@0.95']:.3f} in {found['seconds']:.1f} s",
                        flush=True,
                    )


def run_amortisation(methods: tuple[str, ...] = ("topk", "relu_l1"), name: str = "lrb/mini-hard") -> None:
    """Models of the bench's defaults, their encoders beside solvers, on 256 rows they were not trained on."""
    path = OUT / "amortisation.json"
    done = opened(path, {"command": "python -m studies.classical", "seeds": list(SEEDS), "task": name, "rows": 256})
    for method in methods:
        for seed in SEEDS:
            source = world(name, seed)
            run = f"{method} {seed}"
            if run in done["runs"]:
                continue
            spec, config = recipe(name, method), replace(fit_config(name, seed), threads=1)
            model = fit(spec, source, source.task.n_q, config).model
            truth = source.held_out(256)
            found = model_amortisation(model, *source.pair(truth), source.W_r, truth.features.dense() > 0)
            done["runs"][run] = {"method": spec, "seed": seed, "steps": config.steps} | found
            write_json(path, done)
            print(run, found["amortisation_gap"], found["dictionary_gap"], flush=True)


def run_paper(learners: list[str]) -> None:
    """One run per learner on lrb/paper, told n."""
    path = OUT / "paper.json"
    done = opened(path, {"command": "python -m studies.classical paper", "seeds": [0]})
    source = world("lrb/paper", 0)
    for learner in learners:
        k = {"k": 12}
        done["runs"][learner] = found = {"task": "lrb/paper"} | learned(source, learner, 1000, k, progress=True)
        write_json(path, done)
        print(learner, found["metrics"], found["seconds"], flush=True)


def main() -> None:
    """Run what is missing, one run after the other."""
    torch.set_num_threads(1)
    assert sklearn.decomposition  # loaded by now, so that its threads are limited too
    threadpool_limits(1)
    names = ("lrb/mini", "lrb/mini-hard", SQUARE.name)
    if sys.argv[1:2] == ["sweep"]:
        for name in names:
            run_world(name, TUNING, OUT / "sweep.json", GRID[name])
    elif sys.argv[1:2] == ["paper"]:
        run_paper(sys.argv[2:])
    else:
        for name in names:
            settings = {learner: (setting,) for learner, setting in CHOSEN[name].items()}
            run_world(name, SEEDS, OUT / f"{name.split('/')[1]}.json", settings)
        run_amortisation()


if __name__ == "__main__":
    main()
