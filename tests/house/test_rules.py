"""The library and what stands beside it keep the house rules, and each rule refuses a module that breaks it."""

import pytest

from tests.house import rules
from tests.house.rules import EVERYWHERE, RULES, Rule, lonely_files
from tests.house.source import Source, modules, neighbours

MODULES, NEIGHBOURS = modules(), neighbours()
START = '"""A module."""\n'


def _sentences(rule: Rule) -> list[str]:
    where = [*MODULES, *(NEIGHBOURS if rule in EVERYWHERE else [])]
    return [sentence for module in where for sentence in rule(module)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_all_keep(rule: Rule) -> None:
    assert not (wrong := _sentences(rule)), "\n".join(wrong)


def test_no_file_is_lonely() -> None:
    assert not (wrong := lonely_files([*MODULES, *NEIGHBOURS])), "\n".join(wrong)


def test_package_is_seen() -> None:
    assert {"monosem.base.errors", "monosem.base"} <= {module.name for module in MODULES}
    assert {"studies", "benchmarks"} <= {module.name for module in NEIGHBOURS}


LONG = "x = 1\n" * (rules.MAX_LINES + 1)
BRANCHY = "def f(x):\n" + "    if x: pass\n" * rules.MAX_COMPLEXITY
LOGIC = "def f(x):\n    return " + " and ".join(["x"] * (rules.MAX_COMPLEXITY + 1))
LISTS = "def f(x):\n    return [[y for y in x if y], " + "y if x else z, " * (rules.MAX_COMPLEXITY - 1) + "]"
NESTED = "def f(x):\n" + "    if x: pass\n" * (rules.MAX_COMPLEXITY - 1) + "    def g():\n        if x: pass\n"
TALL = "class A:\n    def f(self):\n" + "        x = 1\n" * rules.MAX_BODY
DOCUMENTED = 'def f():\n    """A\n    b\n    c."""\n' + "    x = 1\n" * (rules.MAX_BODY - 1)
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
    (rules.simple_functions, "studies.x", BRANCHY),
    (rules.simple_functions, "monosem.core.x", LOGIC),
    (rules.simple_functions, "monosem.core.x", LISTS),
    (rules.simple_functions, "monosem.core.x", TALL),
    (rules.simple_functions, "monosem.core.x", f"class A:\n    {BRANCHY.replace(chr(10), chr(10) + '    ')}"),
    (rules.telling_names, "monosem.core.x", "found = 1"),
    (rules.telling_names, "monosem.core.x", "def f(*, told=None): ..."),
    (rules.telling_names, "monosem.core.x", "class A:\n    held: int"),
    (rules.telling_names, "monosem.core.x", "for a, beside in pairs: ..."),
    (rules.telling_names, "monosem.core.x", "if (found := f()): ..."),
    (rules.library_alone, "monosem.bench.x", "from studies.bench import base"),
    (rules.library_alone, "monosem", "def f():\n    import benchmarks.speed"),
    (rules.library_alone, "monosem.cli.x", "import tests.refused"),
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
    (rules.one_door_to_kernels, "monosem.core.x", "from monosem.kernels.native.calls import usable"),
    (rules.one_door_to_kernels, "monosem.train.x", "def f():\n    import monosem.kernels.sparse"),
    (rules.one_door_to_kernels, "monosem.core.x", "from monosem.kernels import sparse"),
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
    (rules.simple_functions, "monosem.core.x", NESTED),
    (rules.simple_functions, "monosem.core.x", DOCUMENTED),
    (rules.telling_names, "monosem.core.x", "x = record['found'] + a.told + f(beside)"),
    (rules.library_alone, "monosem.bench.x", "from monosem.bench import study\nimport testsuite"),
    (rules.docstrings, "monosem.core.x", START + "def _f(): ..." + CLASS),
    (rules.docstrings, "monosem.core.x", '"""One sentence.\n\nThen more"""'),
    (rules.light_imports, "monosem.core.x", "import numpy\ndef f():\n    import scipy"),
    (rules.light_imports, "monosem.core.x", "if TYPE_CHECKING:\n    import scipy"),
    (rules.light_imports, "monosem.report.x", "import matplotlib"),
    (rules.one_door_to_kernels, "monosem.core.x", "from monosem.kernels.ops import select"),
    (rules.one_door_to_kernels, "monosem.kernels.x", "from monosem.kernels.native.calls import usable"),
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


SHORT, WHOLE = "x = 1\n", "x = 1\n" * rules.MIN_LINES
LONELY = [Source("monosem.base.a", SHORT), Source("monosem.core.b", "from monosem.base.a import x")]


def test_a_lonely_file_is_refused() -> None:
    assert [sentence.partition(":")[0] for sentence in lonely_files(LONELY)] == ["monosem.base.a"]
    assert lonely_files([LONELY[0], Source("monosem.core.b", "from monosem.base import a")])


@pytest.mark.parametrize(
    "sources",
    [
        [Source("monosem.base.a", WHOLE), LONELY[1]],
        [*LONELY, Source("monosem.core.c", "import monosem.base.a")],
        [LONELY[0]],
        [Source("monosem.base", SHORT, is_package=True), Source("monosem.core.b", "from monosem.base import x")],
    ],
    ids=["long enough", "two importers", "an entry point", "a package"],
)
def test_a_file_in_company_is_allowed(sources: list[Source]) -> None:
    assert lonely_files(sources) == []
