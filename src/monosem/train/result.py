"""Result: a trained model, how it was trained, and how that went."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.base.card import card, frame
from monosem.base.errors import check
from monosem.base.files import write_atomic
from monosem.base.machine import machine
from monosem.base.sparse import Code
from monosem.base.spec import canonical, to_plain
from monosem.core.io import save_model
from monosem.core.model import SDL
from monosem.core.pairs import Source
from monosem.methods import Method
from monosem.train.config import FitConfig

CURVES = ("fvu", "l0", "dead")


def about_run(
    method: Method,
    source: Source,
    n_q: int,
    config: FitConfig,
    anchors: Anchors | None,
    identity: str,
    start: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that makes a run what it is, as plain values."""
    return {
        "method": method.spec or canonical(method),
        "n_q": n_q,
        "data": {
            "kind": type(source).__name__,
            "rows": source.rows,
            "p_widths": list(source.p_widths),
            "r_widths": list(source.r_widths),
            "digest": source.digest if identity else "",
        },
        "config": to_plain(config),
        "seed": config.seed,
        "steps": config.steps,
        "anchors": None if anchors is None else {"kind": anchors.kind, "k": anchors.k},
        "anchoring": to_plain(method.anchoring),
        "versions": machine(),
        "identity": identity,
        **({} if start is None else {"start": dict(start)}),
    }


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The result of training: the model (in evaluation mode), its log, and how it was made.

    `seconds`: how long this process worked on it. `about` holds everything that a run is made of: method, data, sizes,
    every setting, seed, anchors, versions; it is written into the config.json of a saved model. In a notebook a result
    shows a card with its curves.
    """

    model: SDL
    log: list[dict[str, float]]
    seconds: float
    identity: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, x_p: Float[Tensor, "*batch n_p"]) -> Code:
        """The model's latents of rows; `to_dense()` of it is [*batch, n_q]."""
        return self.model.encode(x_p)

    def decode(
        self, code: Code | Float[Tensor, "*batch n_q"], x_p: Float[Tensor, "*rows n_p"] | None = None
    ) -> Float[Tensor, "*batch n_r"]:
        """The model's reconstruction from latents."""
        return self.model.decode(code, x_p)

    @property
    def W_D(self) -> Float[Tensor, "n_r n_q"]:
        """The model's decoder: a learned feature a column."""
        return self.model.W_D

    @cached_property
    def scores(self) -> dict[str, str]:
        """FVU, L0 and the dead share of the last step that was logged, in words."""
        last = self.log[-1] if self.log else {}
        texts = {"fvu": "{:.4f}", "l0": "{:.1f}", "dead": "{:.1%}"}
        return {name: text.format(last[name]) for name, text in texts.items() if name in last}

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value}" for name, value in self.scores.items())
        return f"Result({self._title}: {scores or 'nothing logged'})"

    @property
    def _title(self) -> str:
        steps = f", {int(self.log[-1]['step']):,} steps" if self.log else ""
        return f"{self.about.get('method') or 'model'}, {self.model.sizes}{steps}"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {"sizes": f"{self.model.sizes} (n_p, n_q, n_r)"}
        data = self.about.get("data")
        if data:
            facts["data"] = f"{data['rows']:,} rows" if data["rows"] else "a stream"
        names = {"fvu": "FVU of the last batch", "l0": "L0, active latents a row", "dead": "dead latents"}
        facts |= {names[name]: value for name, value in self.scores.items()}
        facts["time"] = f"{self.seconds:.1f} s in this process"
        curves = {name: [(e["step"], e[name]) for e in self.log if name in e] for name in CURVES}
        return card(self._title, facts, curves)

    def to_frame(self) -> Any:
        """The log as a pandas DataFrame, a row per logged step."""
        return frame(self.log)

    def plot(self, *names: str) -> Any:
        """The log's curves as a matplotlib figure; by default FVU, L0 and the dead share.

        Raises: ArgumentError for a name that was not logged.
        """
        import matplotlib.pyplot as plt

        names, known = names or CURVES, sorted({name for entry in self.log for name in entry})
        unknown = [name for name in names if name not in known]
        check(not unknown, f"nothing logged is called {', '.join(unknown)}; known: {', '.join(known)}")
        figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 2.6), squeeze=False)
        for name, ax in zip(names, axes[0], strict=True):
            ax.plot([e["step"] for e in self.log if name in e], [e[name] for e in self.log if name in e])
            ax.set(title=name, xlabel="step")
        figure.tight_layout()
        return figure

    def save(self, folder: str | Path) -> Path:
        """Write the model, how it was made, and its log; `monosem.load` reads the model again."""
        folder = save_model(self.model, folder, dict(self.about))
        write_atomic(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.log).encode())
        return folder
