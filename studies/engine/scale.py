"""The sizes at which studies run: the paper's own, and smaller ones of the same ratios."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from monosem import TASKS, FitConfig
from monosem.base import Registry, check
from monosem.bench import Independent, Task, fit_config, recipe


@dataclass(frozen=True)
class Scale:
    """A size at which studies run: the task that stands for the paper's default, how it is trained, which seeds.

    What the paper gives as numbers becomes ratios: n to its 1000 features, k to its 10 active ones. `recipes` and
    `rates` are our defaults' texts and learning rates by method, where they are not the task's.
    """

    name: str
    task: str
    seeds: tuple[int, ...]
    config: FitConfig
    recipes: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def base(self) -> Task:
        """The task at the paper's default."""
        return TASKS[self.task]

    @property
    def l0(self) -> float:
        """The mean number of active features per row at the default."""
        return self._rate * self.base.world.n

    @property
    def _rate(self) -> float:
        law = self.base.world.law
        assert isinstance(law, Independent)
        return 1.0 - law.sparsity

    def k(self, printed: float) -> int:
        """The k that is to this scale's L0 what the printed one is to the paper's 10; at least 1."""
        return max(1, min(self.base.n_q, round(printed * self.l0 / 10.0)))

    def count(self, printed: int) -> int:
        """A number of features: to this scale's n what the printed one is to the paper's 1000; at least 1."""
        return max(1, round(printed * self.base.world.n / 1000))

    def vary(
        self,
        *,
        n: int | None = None,
        interference: float | None = None,
        rate: float | None = None,
        rows: int | None = None,
    ) -> Task:
        """The default task with printed values changed: n of 1000 features, M as it is, the rate to the default's.

        `rate` is relative: the paper's .05 is five times its .01, and five times this scale's own. `rows` is as given.
        """
        world = self.base.world
        if n is not None:
            world = replace(world, n=self.count(n))
        if interference is not None:
            world = replace(world, max_interference=interference)
        if rate is not None:
            own = self._rate * rate / 0.01
            check(own < 1.0, f"rate {rate} of the paper is {own:.3f} at scale {self.name}; choose another scale")
            assert isinstance(world.law, Independent)
            world = replace(world, law=replace(world.law, sparsity=round(1.0 - own, 9)))
        if rows is not None:
            world = replace(world, rows=rows)
        return replace(self.base, world=world, anchors=min(self.base.anchors, world.n - 1))

    def recipe(self, name: str) -> str:
        """A method's text with our defaults at this scale."""
        return self.recipes.get(name) or recipe(self.task, name)

    def fit(self, name: str) -> FitConfig:
        """How a method is trained with our defaults at this scale."""
        return replace(self.config, lr=self.rates.get(name, self.config.lr))


def _config(task: str, steps: int, **changes: object) -> FitConfig:
    return replace(fit_config(task, 0, steps), checkpoint_every=None, **changes)  # type: ignore[arg-type]


SCALES: Registry[Scale] = Registry("scale")
SCALES.add("nano", Scale("nano", "lrb/nano", (0, 1), _config("lrb/nano", 100, log_every=25)))
SCALES.add("mini", Scale("mini", "lrb/mini", (0, 1, 2, 3, 4), _config("lrb/mini", 500)))
SCALES.add("mini-hard", Scale("mini-hard", "lrb/mini-hard", (0, 1, 2, 3, 4), _config("lrb/mini-hard", 1500)))
SCALES.add(
    "paper",
    Scale(
        "paper",
        "lrb/paper",
        (0, 1, 2),
        _config("lrb/paper", 500, selection="bf16", dense="bf16"),
        {
            "relu_l1": "relu_l1(l1=0.3)",
            "topk": "topk(k=16, aux=0.0)",
            "topk_transcoder": "topk_transcoder(k=16, aux=0.0)",
            "topk_crosscoder": "topk_crosscoder(k=16, aux=0.0)",
            "matryoshka": "matryoshka(k=10, aux=0.0)",
        },
        {"relu_l1": 1e-2},
    ),
)
