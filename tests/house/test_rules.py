"""The whole package keeps the house rules, and each rule refuses a module that breaks it."""

import pytest

from tests.house import rules
from tests.house.rules import RULES, Rule
from tests.house.source import Source, modules

MODULES = modules()
START = '"""A module."""\n'


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps(rule: Rule) -> None:
    wrong = [sentence for module in MODULES for sentence in rule(module)]
    assert not wrong, "\n".join(wrong)


def test_package_is_seen() -> None:
    assert {"monosem.base.errors", "monosem.base"} <= {module.name for module in MODULES}


LONG = "x = 1\n" * (rules.MAX_LINES + 1)
CLASS = '\n\nclass A:\n    """It is."""\n'
BREAKS: list[tuple[Rule, str, str]] = [
    (rules.layer_order, "monosem.base.x", "import monosem.core.model"),
    (rules.layer_order, "monosem.core.x", "from monosem.losses import objective"),
    (rules.layer_order, "monosem.core.x", "def f():\n    from monosem.train.loop import fit"),
    (rules.layer_order, "monosem.core.x", "if True:\n    from ..losses import objective"),
    (rules.layer_order, "monosem.train.x", "from monosem.theory import loss"),
    (rules.layer_order, "monosem.theory", "from monosem.train import loop"),
    (rules.layer_order, "monosem.dictionary.x", "from monosem.bench import world"),
    (rules.layer_order, "monosem.interop.x", "from monosem.bench import world"),
    (rules.layer_order, "monosem.methods", "from monosem import SDL"),
    (rules.layer_order, "monosem.methods", "import monosem"),
    (rules.layer_order, "monosem.elsewhere.x", ""),
    (rules.small_files, "monosem.core.x", LONG),
    (rules.docstrings, "monosem.core.x", "X = 1"),
    (rules.docstrings, "monosem.core.x", '"""No sentence"""'),
    (rules.docstrings, "monosem.core.x", START + "def f(): ..."),
    (rules.docstrings, "monosem.core.x", START + "class A: ..."),
    (rules.plain_imports, "monosem.core.x", "from __future__ import annotations"),
    (rules.plain_imports, "monosem.core.x", "from math import *"),
    (rules.light_imports, "monosem.core.x", "import scipy.linalg"),
    (
        rules.light_imports,
        "monosem.bench.x",
        "try:\n    from sklearn import linear_model\nexcept ImportError:\n    pass",
    ),
    (rules.light_imports, "monosem.core.x", "class A:\n    import typer"),
    (rules.named_silences, "monosem.core.x", "x = 1  # type: ignore"),
    (rules.named_silences, "monosem.core.x", "x = 1  # noqa"),
    (rules.safe_loading, "monosem.core.x", "import pickle"),
    (rules.safe_loading, "monosem.core.x", "from joblib import load"),
    (rules.safe_loading, "monosem.core.x", "torch.load(path)"),
    (rules.safe_loading, "monosem.core.x", "torch.load(path, weights_only=False)"),
    (rules.safe_loading, "monosem.core.x", "np.load(path, allow_pickle=True)"),
    (rules.no_training, "monosem.report.x", "def f():\n    from monosem.train.loop import train_step"),
    (rules.no_training, "monosem.inspect.x", "import monosem\nmonosem.fit(method, source, 8, config)"),
]
KEEPS: list[tuple[Rule, str, str]] = [
    (rules.layer_order, "monosem", "from monosem.cli import main"),
    (
        rules.layer_order,
        "monosem.losses.x",
        "from monosem.core import model\nimport torch\nfrom monosem.losses import y",
    ),
    (rules.layer_order, "monosem.bench.x", "from monosem import dictionary"),
    (rules.layer_order, "monosem.bench.x", "from .world import World"),
    (rules.small_files, "monosem.core.x", "x = 1\n" * rules.MAX_LINES),
    (rules.docstrings, "monosem.core.x", START + "def _f(): ..." + CLASS),
    (rules.docstrings, "monosem.core.x", '"""One sentence.\n\nThen more"""'),
    (rules.light_imports, "monosem.core.x", "import numpy\ndef f():\n    import scipy"),
    (rules.light_imports, "monosem.core.x", "if TYPE_CHECKING:\n    import scipy"),
    (rules.light_imports, "monosem.report.x", "import matplotlib"),
    (rules.named_silences, "monosem.core.x", "x = '# type: ignore'  # type: ignore[assignment]\ny = 1  # noqa: E501"),
    (rules.safe_loading, "monosem.core.x", "torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)"),
    (rules.no_training, "monosem.report.x", "axes.set_xlim(0, 1)\nfits(study)"),
    (rules.no_training, "monosem.cli.x", "from monosem.train.loop import fit\nfit(method, source, 8, config)"),
]


def _source(name: str, text: str) -> Source:
    return Source(name, text, is_package=name.count(".") < 2)


@pytest.mark.parametrize(("rule", "name", "text"), BREAKS, ids=lambda value: getattr(value, "__name__", None))
def test_rule_refuses(rule: Rule, name: str, text: str) -> None:
    assert rule(_source(name, text))


@pytest.mark.parametrize(("rule", "name", "text"), KEEPS, ids=lambda value: getattr(value, "__name__", None))
def test_rule_allows(rule: Rule, name: str, text: str) -> None:
    assert rule(_source(name, text)) == []


def test_every_rule_can_fail() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(RULES)
