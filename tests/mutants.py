"""Mutation testing of theory, losses and core: `make mutants`, or python -m tests.mutants --count 200 --seconds 3000.

A mutant is one change of one expression: (file, function, operator, number of the site). All are listed, a seed draws
some, function by function, and each is tried in a process of its own that has imported torch and pytest but nothing of
the library; the changed source is given to it in place of the file, which stays as it is. Tests that call the changed
function run, the quickest first, until one fails. What survives is listed with its change, and with the reason in
REASONS where one is known; outcomes are appended to tests/mutants.jsonl, so that a further call goes on.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

import pytest
import scipy.optimize  # noqa: F401 (here once, and not in every fork)
import torch

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
RECORD, CALLS = Path(__file__).with_suffix(".jsonl"), Path("runs/mutants")
_TRUST, _ORACLE = "tests/train/test_trust.py", "tests/oracle/test_oracle.py"
_LOSSES = (f"tests/losses/test_{name}.py" for name in ("values", "defects", "later_terms", "resample", "control"))
TESTS = {
    "core": ("tests/core", _TRUST, "tests/train/test_calibration.py", _ORACLE),
    "losses": (*_LOSSES, _TRUST, _ORACLE),
    "theory": ("tests/theory",),
}
"""Where a part's own tests are; what takes long stays out."""
LEFT_OUT = "not test_forty_steps or sae"
"""Of the oracle's trajectories, those of one pairing."""
LIMIT_S = 400
_CASE = "what random cases and examples look like: others do as well"
_SEARCH = "how a search goes on: what it finds is certified afterwards"
REASONS: dict[str, str] = {
    "monosem/theory/landscape.py::Landscape._repr_html_::constant::0": "how many rows a notebook shows",
    "monosem/theory/checks/walls.py::_within::constant::0": "other encoders, which lie within the pattern as well",
    "monosem/core/computed.py::_Product.weights::logic::0": "both lists are made from the same blocks",
    "monosem/theory/checks/convexity.py::_selected::constant::1": _CASE,
    "monosem/theory/search/pairs.py::_start::arithmetic::0": _SEARCH,
    "monosem/theory/checks/walls.py::_attracts_case::arithmetic::0": _CASE,
    "monosem/theory/checks/hierarchy.py::_measure::constant::2": "what divides 0 is larger",
    "monosem/theory/checks/hierarchy.py::_case::constant::4": _CASE,
    "monosem/core/aligned.py::_products::logic::0": "both lists are made from the same blocks",
    "monosem/theory/checks/stationary.py::_measure_scale::opposite::0": "a factor on both sides",
    "monosem/theory/landscape.py::Landscape.minimum::constant::1": "one start is asked for by nobody",
    "monosem/theory/checks/optima.py::_long_columns::constant::0": _CASE,
    "monosem/theory/checks/hierarchy.py::_plain::constant::2": _CASE,
    "monosem/theory/checks/convexity.py::_membership::constant::0": "how many encoders are compared",
    "monosem/theory/checks/zero.py::_measure_dimension::dropped call::1": "how numbers lie in memory",
    "monosem/theory/search/acs.py::_gauge::opposite::0": "the loss does not depend on the scale of the gauge",
    "monosem/theory/problem.py::joint_hessian::logic::0": "both lists have one entry a block",
    "monosem/theory/checks/stationary.py::_overlap_case::constant::2": _CASE,
    "monosem/theory/search/acs.py::_escape::constant::6": _SEARCH,
    "monosem/theory/search/acs.py::_polish::arithmetic::3": _SEARCH,
    "monosem/theory/search/acs.py::acs::constant::25": _SEARCH,
    "monosem/theory/checks/walls.py::_neighbours::arithmetic::0": "a symmetric draw",
    "monosem/theory/checks/stationary.py::_overlapping::dropped call::1": "how numbers lie in memory",
    "monosem/theory/law.py::exact_atoms::comparison::0": "a limit of size that no number of atoms meets exactly",
    "monosem/theory/search/pairs.py::bound_pairs::constant::6": _SEARCH,
    "monosem/theory/checks/stationary.py::_scale_case::constant::0": _CASE,
    "monosem/theory/checks/convexity.py::_abs_case::constant::2": _CASE,
    "monosem/theory/checks/zero.py::_dimension_case::constant::0": _CASE,
    "monosem/core/shared_out.py::FeatureChoice._choose::logic::2": "both lists have one entry a latent",
    "monosem/theory/checks/hierarchy.py::_encoder::sign::0": _CASE,
    "monosem/core/encoding.py::_at::constant::0": "an empty slice or one of one entry, of which no value is read",
    "monosem/core/io.py::_check_finite::dropped call::0": "whether a check of finite numbers records a graph",
}
"""Why a survivor is no hole, by its name."""

_COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: ast.Add}
_OPPOSITE = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax", "argmax": "argmin",
             "all": "any", "any": "all", "sum": "mean", "mean": "sum", "floor": "ceil", "ceil": "floor"}  # fmt: skip
_DROPPED = {"relu", "abs", "detach", "sqrt", "exp", "log", "square", "clone", "contiguous", "T"}


def _comparison(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARED:
        return ast.Compare(node.left, [_COMPARED[type(node.ops[0])]()], node.comparators)
    return None


def _arithmetic(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    return None


def _constant(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return ast.Constant(node.value + 1 if type(node.value) is int else node.value * 2 + 0.5)
    return None


def _sign(node: ast.AST) -> ast.AST | None:
    return node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not) else None


def _logic(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.BoolOp):
        return ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        return ast.Constant(not node.value)
    return None


def _opposite(node: ast.AST) -> ast.AST | None:
    """min for max, all for any, sum for mean: of functions and methods."""
    if isinstance(node, ast.Attribute) and node.attr in _OPPOSITE:
        return ast.Attribute(node.value, _OPPOSITE[node.attr], node.ctx)
    if isinstance(node, ast.Name) and node.id in ("min", "max", "all", "any"):
        return ast.Name(_OPPOSITE[node.id], node.ctx)
    return None


def _dropped(node: ast.AST) -> ast.AST | None:
    """x for x.relu(), x.detach() and the like, and for x.T."""
    called = isinstance(node, ast.Call) and not node.args and not node.keywords
    name = node.func if called and isinstance(node, ast.Call) else node
    if isinstance(name, ast.Attribute) and name.attr in _DROPPED and called == (name.attr != "T"):
        return name.value
    return None


def _condition(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.IfExp):
        return ast.IfExp(node.test, node.orelse, node.body)
    if isinstance(node, ast.If):
        return ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    return None


OPERATORS: dict[str, Callable[[ast.AST], ast.AST | None]] = {
    "comparison": _comparison, "arithmetic": _arithmetic, "constant": _constant, "sign": _sign, "logic": _logic,
    "opposite": _opposite, "dropped call": _dropped, "condition": _condition,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change."""

    path: str
    function: str
    operator: str
    site: int

    @property
    def name(self) -> str:
        """How it is called in the record."""
        return f"{self.path}::{self.function}::{self.operator}::{self.site}"

    @property
    def part(self) -> str:
        """theory, losses or core."""
        return Path(self.path).parts[1]

    @property
    def module(self) -> str:
        """The module that it changes."""
        return ".".join(Path(self.path).with_suffix("").parts)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods by their qualified name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{f.name}", f) for f in node.body if isinstance(f, ast.FunctionDef))


def _sites(function: ast.FunctionDef, operator: str) -> list[ast.AST]:
    """Where an operator applies in the body, error messages and docstrings left out."""
    change, nodes = OPERATORS[operator], []
    pending: list[ast.AST] = [*function.body]
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert):
            continue
        if change(node) is not None:
            nodes.append(node)
        pending.extend(ast.iter_child_nodes(node))
    return nodes


def every(parts: Sequence[str]) -> list[Mutant]:
    """All mutants of some parts of the library."""
    mutants = []
    for part in parts:
        for file in sorted((SOURCE / "monosem" / part).rglob("*.py")):
            for name, function in _functions(ast.parse(file.read_text(encoding="utf-8"))):
                mutants += [
                    Mutant(str(file.relative_to(SOURCE)), name, operator, site)
                    for operator in OPERATORS
                    for site in range(len(_sites(function, operator)))
                ]
    return mutants


def draw(count: int, seed: int, parts: Sequence[str]) -> list[Mutant]:
    """Some mutants, in turns of the functions, so that long functions do not take all."""
    by_function: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in every(parts):
        by_function.setdefault((mutant.path, mutant.function), []).append(mutant)
    order, groups = random.Random(seed), list(by_function.values())
    for group in groups:
        order.shuffle(group)
    drawn: list[Mutant] = []
    while len(drawn) < count and any(groups):
        order.shuffle(groups)
        drawn += [group.pop() for group in groups if group]
    return drawn[:count]


def changed(mutant: Mutant) -> tuple[ast.Module, str]:
    """The changed source as a tree, and the change in words."""
    tree = ast.parse((SOURCE / mutant.path).read_text(encoding="utf-8"))
    old = _sites(dict(_functions(tree))[mutant.function], mutant.operator)[mutant.site]
    new = OPERATORS[mutant.operator](old)
    assert new is not None
    before, after = (ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split("\n")[0] for node in (old, new))

    class Put(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return ast.copy_location(new, old) if node is old else self.generic_visit(node)

    line = getattr(old, "lineno", 0)
    return ast.fix_missing_locations(Put().visit(tree)), f"line {line}: {before}  ->  {after}"


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the changed source in place of one module's file."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant, self.code = mutant, compile(changed(mutant)[0], mutant.path, "exec")

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        return importlib.util.spec_from_file_location(name, SOURCE / self.mutant.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


class _Watch:
    """Which functions of the library each test calls, and how many seconds it takes; written when all are done."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, {}  # type: Path, dict[str, tuple[float, list[str]]]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        codes: set[CodeType] = set()
        began = time.process_time()
        sys.setprofile(lambda frame, event, _: codes.add(frame.f_code) if event == "call" else None)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            names = {_called(code) for code in codes if code.co_filename.startswith(str(SOURCE))}
            self.seen[item.nodeid] = time.process_time() - began, sorted(names)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.seen))


def _called(code: CodeType) -> str:
    path = Path(code.co_filename).relative_to(SOURCE)
    return f"{path}::{code.co_qualname.partition('.<locals>')[0].removesuffix('.<lambda>')}"


class _Only:
    """Leaves the tests of a list, in its order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])


def run(files: Sequence[Path | str], plugin: object, mutant: Mutant | None = None) -> str:
    """Run tests in a process of its own: caught (one failed), stopped (it took too long), or survived."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        code = 1
        with suppress(BaseException):
            if mutant is not None:
                sys.meta_path.insert(0, _Finder(mutant))
            options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", LEFT_OUT]
            code = int(pytest.main([*options, *map(str, files)], plugins=[plugin]))
        os._exit(code)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "caught"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "stopped"


@cache
def callers(part: str) -> dict[str, list[str]]:
    """By function: the tests of a part that call it, the quickest first; all of them under no name.

    What was watched is kept in CALLS; delete it when tests have changed.
    """
    seen = CALLS / f"{part}.json"
    files = [f for test in TESTS[part] for f in (sorted(ROOT.glob(f"{test}/test_*.py")) or [ROOT / test])]
    CALLS.mkdir(parents=True, exist_ok=True)
    if not seen.is_file() and (first := run(files, _Watch(seen))) != "survived":  # else every mutant would seem caught
        seen.unlink(missing_ok=True)
        sys.exit(f"the tests of {part} do not pass as they are ({first}); mend them first")
    watched = json.loads(seen.read_text())
    tests: dict[str, list[str]] = {"": sorted(watched, key=lambda test: watched[test][0])}
    for test in tests[""]:
        for name in watched[test][1]:
            tests.setdefault(name, []).append(test)
    return tests


def tried(mutant: Mutant) -> str:
    """What came of a mutant; one that no test calls (it runs while modules are imported) meets all tests."""
    tests = callers(mutant.part)
    chosen = tests.get(f"{mutant.path}::{mutant.function}", tests[""])
    files = sorted({test.partition("::")[0] for test in chosen})
    return run(files, _Only(chosen), mutant)


def known() -> dict[str, dict[str, str]]:
    """The outcomes so far, by name."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.exists() else ()
    return {outcome["name"]: outcome for outcome in map(json.loads, lines)}


def report(outcomes: Sequence[dict[str, str]]) -> str:
    """The share that was caught, by part; then what survived."""
    lines = []
    for part in TESTS:
        here = Counter(o["outcome"] for o in outcomes if o["name"].startswith(f"monosem/{part}/"))
        total, caught = sum(here.values()), here["caught"] + here["stopped"]
        lines += [f"{part}: {caught} of {total} caught ({caught / total:.0%})"] if total else []
    for outcome in outcomes:
        if outcome["outcome"] == "survived":
            lines.append(
                f"survived: {outcome['name']}\n    {outcome['change']}\n    {REASONS.get(outcome['name'], '?')}"
            )
    return "\n".join(lines)


def main() -> None:
    """Try what a seed draws, until time is up, and print the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--part", choices=TESTS, action="append")
    options = parser.parse_args()
    os.environ["MONOSEM_NO_TYPECHECK"] = "1"
    torch.set_num_threads(1)
    stop, before = time.monotonic() + options.seconds, known()
    for mutant in draw(options.count, options.seed, tuple(TESTS)):
        if mutant.name in before or mutant.part not in (options.part or TESTS):
            continue
        if time.monotonic() > stop:
            break
        outcome = {"name": mutant.name, "outcome": tried(mutant), "change": changed(mutant)[1]}
        with RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome) + "\n")
        print(outcome["outcome"], outcome["name"], flush=True)
    print(report(list(known().values())))


if __name__ == "__main__":
    main()
