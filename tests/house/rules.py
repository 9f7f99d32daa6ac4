"""The house rules: each takes one module and returns what is wrong with it, as sentences; none means all is well."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator

from tests.house.source import Source, top_level

Rule = Callable[[Source], list[str]]

LAYERS = (
    ("base",),
    ("kernels",),
    ("core",),
    ("losses",),
    ("anchors",),
    ("methods",),
    ("train", "theory"),
    ("data",),
    ("dictionary", "networks", "interop"),
    ("bench",),
    ("inspect", "report"),
    ("cli", "__main__"),
)
SIBLINGS = {("networks", "bench"), ("inspect", "report"), ("__main__", "cli")}  # (who, whom), within a layer
HEAVY = frozenset(
    ["PIL", "matplotlib", "numba", "pandas", "pyarrow", "rich", "scipy", "sklearn", "transformers", "triton", "typer"]
)
MAX_LINES = 450
PICKLES = frozenset(["cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"])

_RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def layer_order(module: Source) -> list[str]:
    """Layers import one way, also inside functions; `monosem/__init__.py` may import anything."""
    part = module.part
    if not part:
        return []
    if part not in _RANK:
        return [f"{module.name}: {part!r} is in no layer; add it to LAYERS and to the design decision"]
    wrong = []
    for node, name in module.imports():
        root, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if root != "monosem" or target == part or (part, target) in SIBLINGS:
            continue
        if target not in _RANK:
            wrong.append(f"{_at(module, node)}: import from the module that defines it, not from monosem itself")
        elif _RANK[target] >= _RANK[part]:
            wrong.append(f"{_at(module, node)}: {part} may not import {target}, which is not below it")
    return wrong


def small_files(module: Source) -> list[str]:
    """A file does one thing in at most MAX_LINES lines."""
    lines = len(module.text.splitlines())
    return [f"{module.name}: {lines} lines, at most {MAX_LINES}; split it by idea"] if lines > MAX_LINES else []


def docstrings(module: Source) -> list[str]:
    """A module begins with one sentence that says what it is; public functions and classes say what they do."""
    first = (ast.get_docstring(module.tree) or "").partition("\n\n")[0]
    wrong = [] if first.endswith((".", "?", "!", ":")) else [f"{module.name}: begin the file with one sentence"]
    for name, node in _definitions(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not ast.get_docstring(node):
            wrong.append(f"{_at(module, node)}: {name} has no docstring")
    return wrong


def plain_imports(module: Source) -> list[str]:
    """No postponed annotations (they hide shapes from the run-time checks) and no star imports."""
    wrong = []
    for node, name in module.imports():
        if name == "__future__.annotations":
            wrong.append(f"{_at(module, node)}: no `from __future__ import annotations`")
        if name.endswith(".*"):
            wrong.append(f"{_at(module, node)}: no star import; name what is used")
    return wrong


def light_imports(module: Source) -> list[str]:
    """Heavy packages are imported where they are used; only report and cli may import them at the top."""
    if module.part in {"inspect", "report", "cli", "__main__"}:
        return []
    return [
        f"{_at(module, node)}: import {name.partition('.')[0]} inside the function that uses it"
        for node in _at_import(module.tree.body)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in module.imported(node)
        if name.partition(".")[0] in HEAVY
    ]


def named_silences(module: Source) -> list[str]:
    """`type: ignore` and `noqa` name the code that they silence."""
    bare = re.compile(r"#.*(type:\s*ignore(?!\[)|noqa(?!:\s*[A-Z]))")
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    return [
        f"{module.name}:{token.start[0]}: name the code: {token.string}"
        for token in tokens
        if token.type == tokenize.COMMENT and bare.search(token.string)
    ]


def safe_loading(module: Source) -> list[str]:
    """A file that is read cannot run code: no pickles, by any road."""
    wrong = [
        f"{_at(module, node)}: {name.partition('.')[0]} runs code from a file; use safetensors and JSON"
        for node, name in module.imports()
        if name.partition(".")[0] in PICKLES
    ]
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if ast.unparse(node.func) == "torch.load" and given.get("weights_only") != "True":
            wrong.append(f"{_at(module, node)}: torch.load needs weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            wrong.append(f"{_at(module, node)}: allow_pickle=True runs code from a file")
    return wrong


def no_training(module: Source) -> list[str]:
    """Reports and pages of latents draw what is there: they train nothing."""
    if module.part not in {"inspect", "report"}:
        return []
    imported = [
        f"{_at(module, node)}: {module.part} may not import {name}; draw what a record or a model holds"
        for node, name in module.imports()
        if f"{name}.".startswith("monosem.train.") or name == "monosem.fit"
    ]
    called = [
        f"{_at(module, node)}: {module.part} may not call fit; draw what a record or a model holds"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "fit"
    ]
    return imported + called


RULES: tuple[Rule, ...] = (
    layer_order,
    small_files,
    docstrings,
    plain_imports,
    light_imports,
    named_silences,
    safe_loading,
    no_training,
)


def _at(module: Source, node: ast.AST) -> str:
    return f"{module.name}:{getattr(node, 'lineno', 0)}"


def _at_import(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """As top_level, and into class bodies, which run at import too."""
    for node in top_level(list(body)):
        yield node
        if isinstance(node, ast.ClassDef):
            yield from _at_import(node.body)


def _definitions(module: Source) -> Iterator[tuple[str, ast.stmt]]:
    """Public names that the module defines at its top; type variables are no one's interface."""
    for node in top_level(module.tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not _is_type_variable(node.value):
            names = _targets(node)
        else:
            continue
        yield from ((name, node) for name in names if not name.startswith("_"))


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]  # in a[i] = 1 nothing is defined


def _is_type_variable(value: ast.expr | None) -> bool:
    kinds = {"TypeVar", "TypeVarTuple", "ParamSpec"}
    return isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in kinds
