"""The house rules: each takes one module and returns what is wrong with it, as sentences; none means all is well."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator

from tests.house.source import Source, functions, top_level

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
    ("front",),
    ("cli", "__main__", "activations", "terms"),
)
SIBLINGS = {("networks", "bench"), ("inspect", "report"), ("__main__", "cli")}  # (who, whom), within a layer
HEAVY = frozenset(
    ["PIL", "matplotlib", "numba", "pandas", "pyarrow", "rich", "scipy", "sklearn", "transformers", "triton", "typer"]
)
MAX_LINES = 450
MIN_LINES = 40
MAX_BODY = 50
MAX_COMPLEXITY = 12
BANNED = frozenset(["beside", "found", "held", "told"])
"""Words that say where a value came from, not what it is."""
OUTSIDE = frozenset(["benchmarks", "examples", "studies", "tests"])
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


def lonely_files(modules: Iterable[Source]) -> list[str]:
    """A file below MIN_LINES that one other module alone imports belongs into that module; a face is for users."""
    modules = list(modules)
    importers: dict[str, set[str]] = {module.name: set() for module in modules}
    for module in modules:
        for _, name in module.imports():
            for target in (name, name.rpartition(".")[0]):
                if target in importers and target != module.name:
                    importers[target].add(module.name)
    return [
        f"{module.name}: {lines} lines that only {next(iter(importers[module.name]))} imports; put them there"
        for module in modules
        if not module.is_package and module.name.count(".") > 1 and (lines := len(module.text.splitlines())) < MIN_LINES
        if len(importers[module.name]) == 1
    ]


def simple_functions(module: Source) -> list[str]:
    """A function has complexity MAX_COMPLEXITY at most, and MAX_BODY lines at most without its docstring."""
    wrong = []
    for name, node in functions(module.tree):
        if (size := _complexity(node)) > MAX_COMPLEXITY:
            wrong.append(f"{module.name}:{name}: complexity {size}, at most {MAX_COMPLEXITY}; split it by idea")
        if (lines := _body_lines(node)) > MAX_BODY:
            wrong.append(f"{module.name}:{name}: {lines} lines, at most {MAX_BODY}; split it by idea")
    return wrong


def telling_names(module: Source) -> list[str]:
    """No variable, parameter or field is called by one of the BANNED words."""
    names = [(node.id, node) for node in ast.walk(module.tree) if isinstance(node, ast.Name)]
    stored = [(name, node) for name, node in names if isinstance(node.ctx, ast.Store)]
    parameters = [(node.arg, node) for node in ast.walk(module.tree) if isinstance(node, ast.arg)]
    return [
        f"{module.name}:{name}: line {node.lineno}; name the thing itself"
        for name, node in [*stored, *parameters]
        if name in BANNED
    ]


def library_alone(module: Source) -> list[str]:
    """The library imports nothing that stands beside it."""
    return [
        f"{_at(module, node)}: the library may not import {name.partition('.')[0]}"
        for node, name in module.imports()
        if name.partition(".")[0] in OUTSIDE
    ]


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


def one_door_to_kernels(module: Source) -> list[str]:
    """Outside kernels nothing imports from them but `kernels.ops`, where the back end is chosen."""
    if module.part == "kernels":
        return []
    door = "monosem.kernels.ops"
    return [
        f"{_at(module, node)}: import from {door}, not {name}; what the library needs has a name there"
        for node, name in module.imports()
        if name.startswith("monosem.kernels") and name != door and not name.startswith(f"{door}.")
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
    library_alone,
    small_files,
    simple_functions,
    telling_names,
    docstrings,
    plain_imports,
    light_imports,
    one_door_to_kernels,
    named_silences,
    safe_loading,
    no_training,
)
EVERYWHERE: tuple[Rule, ...] = (small_files, simple_functions, telling_names, named_silences, safe_loading)
"""Rules that hold the packages beside the library too."""


def _complexity(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """1 + branches, loops, handlers, comprehensions, conditional expressions and boolean operators; nested
    functions and classes count for themselves."""
    count, waiting = 1, list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if isinstance(node, _BRANCHES):
            count += 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        waiting.extend(ast.iter_child_nodes(node))
    return count


_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first, last = function.body[0], function.end_lineno or function.lineno
    doc = (first.end_lineno or first.lineno) - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return last - function.lineno + 1 - doc


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
