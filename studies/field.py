"""The field's methods, one line each: how monosem says it, and one run on lrb/mini; or why it is refused.

`python -m studies field [METHOD ...]` runs what has no record; `python -m studies pages field` prints docs/field.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from monosem import task
from monosem.base import ArgumentError, check, to_plain
from monosem.bench import Coded, TaskSource, environment, evaluate, fit_config, pairing_of
from monosem.methods import brief, method
from monosem.train import fit
from studies.page import provenance, write_generated
from studies.stored import store, stored

TASK, STEPS, ROWS, SEED = "lrb/mini", 300, 4096, 100
"""A world of the seeds on which recipes are chosen: this table compares no methods."""


@dataclass(frozen=True)
class Line:
    """A method of the literature: what it is, its paper, and its text, or the reason why there is none."""

    name: str
    paper: str
    text: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        """The record's name."""
        return "field/" + "".join(letter if letter.isalnum() else "-" for letter in self.name.lower())


_NETWORK = "its loss runs a network, which no text names: `networks.in_network` makes the term in Python"
_BLOCK = "another object than one code between two dictionaries"
LINES: tuple[Line, ...] = (
    Line("ReLU with L1 by decoder norm", "Bricken et al. 2023", "relu_l1(l1=1.0)"),
    Line("Anthropic, January 2025", "Anthropic 2025", "anthropic_jan25(sparsity=0.5, active=0.01)"),
    Line("p-annealing", "2408.00113", "p_anneal"),
    Line("Gated", "2404.16014", "gated(l1=1.0)"),
    Line("JumpReLU", "2407.14435", "jumprelu(theta=0.5, bandwidth=0.5)"),
    Line("quadratic target L0", "Gemma Scope 2", "jumprelu(theta=0.5, bandwidth=0.5) + l0(1.0, target=2)"),
    Line("target-L0 controller", "SynthSAEBench 2026", "relu_l1(l1=to_l0(2.0))"),
    Line("frequency penalty", "Gemma Scope 2", "jumprelu(theta=0.5, bandwidth=0.5) + frequency(1.0)"),
    Line("Gemma Scope 2", "Gemma Scope 2", "gemma_scope_2(l0=2, theta=0.5, bandwidth=0.5)"),
    Line("Gemma Scope 2, crosscoder", "Gemma Scope 2", "gemma_scope_2_crosscoder(l0=2, theta=0.5, bandwidth=0.5)"),
    Line("Gemma Scope 2, cross-layer", "Gemma Scope 2", "gemma_scope_2_cross_layer(l0=2, theta=0.5, bandwidth=0.5)"),
    Line("TopK with AuxK", "2406.04093", "topk(k=4)"),
    Line("Multi-TopK", "2406.04093", "multi_topk(k=2)"),
    Line("BatchTopK", "2412.06410", "batch_topk(k=2)"),
    Line("Matryoshka", "2503.17547", "matryoshka(k=2)"),
    Line("frequency-ordered Matryoshka, detached prefixes", "SynthSAEBench 2026", "ordered_matryoshka(k=2)"),
    Line("HierarchicalTopK", "2505.24473", "hier_topk(k=4)"),
    Line("GroupMax", "sparsify", "group_max(k=4)"),
    Line("AbsTopK", "SAELens", "abs_topk(k=4)"),
    Line("mutual choice, its allocation alone", "2411.02124", "batch_topk(k=2)"),
    Line("feature choice", "2411.02124", "feature_choice(k=8)"),
    Line("AdaptiveK", "2508.17320", "adaptive_k(least=1, most=6)"),
    Line("MinFire gate", "released runs", "min_fire(k=2)"),
    Line("OrtSAE", "2509.22033", "ortsae(k=2)"),
    Line("aligned training", "2605.18629", "aligned(k=4)"),
    Line("adaptive elastic net", "2605.05341", "aen"),
    Line("MetaSAE", "2604.03436", "meta_sae(k=2)"),
    Line("masked regularisation", "2604.06495", reason="`monosem harvest --mask 0.1`: it acts before rows exist"),
    Line("dense low-rank branch", "2606.14040", "dense_branch(k=2, rank=4)"),
    Line("mean-centring", "2605.31518", "topk(k=4) | init(b_D='mean') + pre_bias('tied')"),
    Line("active-subspace start", "2508.16929", "subspace(k=4)"),
    Line("k-annealing", "dictionary_learning", "topk(k=4, k_start=32, anneal=0.5)"),
    Line("resampling", "Bricken et al. 2023", "relu_l1(l1=1.0) | resample(every=100)"),
    Line("ghost gradients", "Jermyn and Templeton 2024", "relu_l1(l1=1.0) + ghost_grads"),
    Line("KL finetune, end-to-end, attribution core", "2503.17272", reason=_NETWORK),
    Line("MP-SAE", "2506.03093", "mp(k=2)"),
    Line("LISTA, ISTA encoder", "Gregor and LeCun 2010", "lista"),
    Line("KronSAE", "2505.22255", "kron(k=4)"),
    Line("Switch SAE, TopK over all experts", "2410.08201", "switch(k=4)"),
    Line("Scale SAE", "2511.05745", "scale(k=4, experts=8, active=2)"),
    Line("RouteSAE", "2503.08200", "route(k=4)"),
    Line("MLP encoder", "O'Neill et al. 2025", "topk(k=4) | mlp"),
    Line("GLU encoder", "llamascopium", "topk(k=4) | glu"),
    Line("archetypal (RA-SAE)", "2502.12892", "archetypal(k=4)"),
    Line("T-SAE", "2511.05541", "t_sae(k=2)"),
    Line("temporal feature analysis", "2511.01836", reason="its code reads other tokens: " + _BLOCK),
    Line("HSAE, Tree SAE", "2602.11881", reason="each of its levels reconstructs x_r alone, and x_r_hat is one sum"),
    Line("PolySAE", "2026", reason="a decoder that is not linear in the code: " + _BLOCK),
    Line("transcoder", "2406.11944", "topk_transcoder(k=4)"),
    Line("skip transcoder", "2501.18823", "topk_skip_transcoder(k=4)"),
    Line("crosscoder", "Lindsey et al. 2024", "relu_l1_crosscoder(l1=1.0)"),
    Line("BatchTopK crosscoder", "2504.02922", "batch_topk_crosscoder(k=4)"),
    Line("latent scaling", "2504.02922", reason="an evaluation, `bench.latent_scaling`, not a method"),
    Line("dedicated-feature crosscoder", "2602.11729", "dfc(k=4)"),
    Line("Delta-Crosscoder", "2603.04426", "delta_crosscoder(k=4)"),
    Line("weakly causal crosscoder", "Gemma Scope 2", "topk_weakly_causal(k=4)"),
    Line("cross-layer transcoder", "Ameisen et al. 2025", "topk_cross_layer(k=4)"),
    Line("cross-layer, tied decoders", "CLT-Forge", "topk_cross_layer(k=4) | tied_targets"),
    Line("cross-layer, low-rank decoders", "clt-training", "topk_cross_layer(k=4) | low_rank(rank=64)"),
    Line("Lorsa, MOLT, CRM", "2504.20938", reason="sparse attention and mixtures of maps: " + _BLOCK),
    Line("Jacobian SAE, parameter decomposition, NLA", "2025", reason=_BLOCK),
    Line("Muon", "Jordan et al. 2024", "topk(k=4) | muon"),
    Line("schedule-free signs", "2405.15682", "topk(k=4) | schedule_free_sign"),
    Line("mean of the weights (EMA)", "2406.04093", "topk(k=4) | adam(ema=0.99)"),
    Line("8-bit Adam", "2110.02861", "topk(k=4) | adam8"),
)


def run(line: Line) -> dict[str, Any]:
    """One run: the method's text, and FVU and L0 on rows that training never saw."""
    chosen = method(line.text)
    assert method(chosen.spec) == chosen
    source = TaskSource(task(TASK, pairing_of(line.text), SEED))
    config = fit_config(TASK, SEED, STEPS)
    config = replace(config, log_every=STEPS)
    result = fit(chosen, source, source.task.n_q, config)
    x_p, x_r = source.pair(source.held_out(ROWS))
    with torch.no_grad():
        parts = [(y, result.model(x)) for x, y in zip(torch.split(x_p, 512), torch.split(x_r, 512), strict=True)]
        scores = evaluate(Coded(y, out.x_r_hat, out.code) for y, out in parts)
    return {
        "name": line.name,
        "text": line.text,
        "spec": chosen.spec,
        "task": {"name": TASK, "seed": SEED, "rows": ROWS},
        "config": to_plain(config),
        "fvu": scores["fvu"],
        "l0": scores["l0"],
        "dead": scores["dead"],
        "seconds": result.seconds,
        "env": environment(),
    }


def main(names: Sequence[str] = ()) -> None:
    """Run what has no record of its text, or the named methods anew."""
    unknown = sorted(set(names) - {line.name for line in LINES})
    check(not unknown, f"no method {', '.join(unknown)}; the names are those of docs/field.md", ArgumentError)
    torch.set_num_threads(1)
    for line in LINES:
        if not line.text or (names and line.name not in names):
            continue
        record = stored(line.key)
        if record is None or (record["text"], record["task"]["name"]) != (line.text, TASK) or names:
            record = run(line)
            store(line.key, record)
        print(f"{line.name}: FVU {record['fvu']:.3f}, L0 {record['l0']:.2f}", file=sys.stderr, flush=True)


def page() -> None:
    """docs/field.md."""
    records = {line.name: record for line in LINES if line.text and (record := stored(line.key)) is not None}
    rows = fit_config(TASK, SEED).batch_size
    made = provenance(records.values()) if records else "Not run."
    lines = [
        "# The field, method by method",
        "",
        "Every method of the field's table, late 2026: how monosem says it ([methods.md](methods.md)), or why not.",
        "**Y** means three things: the text reads back to the same value; loss and gradients agree with an independent",
        "float64 model or a formula written out (`tests/oracle`, `tests/losses`, `tests/core/test_kinds.py`); a short",
        "run leaves a held-out FVU below 1. **X** is refused, with the reason. The runs show that a method",
        f"trains. They compare nothing: arguments are not tuned, and {STEPS} steps are few. **?** has no run yet.",
        "",
        f"Task `{TASK}`, seed {SEED}, {STEPS} steps of {rows} rows; FVU and L0 on {ROWS:,} other rows. {made}",
        "",
        "| method | paper | | text, or why not | FVU | L0 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(line, records.get(line.name)) for line in LINES]
    good = sum(_verdict(line, records.get(line.name)) == "Y" for line in LINES)
    lines += ["", f"{good} of {len(LINES)} rows are Y."]
    write_generated("docs/field.md", "field", "\n".join(lines) + "\n")


def _verdict(line: Line, record: dict[str, Any] | None) -> str:
    """Y, X, or ? where there is a text and no run of it that explains anything."""
    if not line.text:
        return "X"
    return "Y" if record is not None and record["text"] == line.text and record["fvu"] < 1 else "?"


def _line(line: Line, record: dict[str, Any] | None) -> str:
    text = f"`{brief(method(line.text).spec)}`".replace("|", "\\|") if line.text else line.reason
    numbers = ("", "") if record is None else (f"{record['fvu']:.3f}", f"{record['l0']:.2f}")
    return f"| {' | '.join((line.name, line.paper, _verdict(line, record), text, *numbers))} |"
