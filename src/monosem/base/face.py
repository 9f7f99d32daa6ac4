"""Faces: packages whose public names are imported when they are first used."""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any


class Face(ModuleType):
    """A package that shows names of the modules below it and imports each when it is asked for.

    Functions that it shows check their arguments against their annotations (`base.guard`): a wrong one is one line.
    A public name wins over a module of the same name: `monosem.inspect` is the function, and the package
    `monosem.inspect` is still found by `from monosem.inspect import ...`.
    """

    _shown: dict[str, str]
    _guards: bool

    def __getattr__(self, name: str) -> Any:
        target = self.__dict__["_shown"].get(name)
        if target is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        module, _, attribute = target.rpartition(".")
        value = import_module(target) if module == self.__name__ else getattr(import_module(module), attribute)
        if self._guards and isinstance(value, FunctionType):
            from monosem.base.guard import guarded

            value = guarded(value)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        shown = self.__dict__["_shown"].get(name, "")
        if isinstance(value, ModuleType) and shown not in ("", f"{self.__name__}.{name}"):
            return  # the import system names a submodule that was loaded; the public name stays
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._shown})


def show(package: str, guards: bool = True) -> None:
    """Make a package a face: its public names are the imports under its `if TYPE_CHECKING:`.

    They stand once, where type checkers and editors read them, and cost nothing until they are used. `guards`: whether
    its functions check their arguments.

    Example:
        >>> import monosem.bench
        >>> "World" in dir(monosem.bench)
        True
    """
    module = sys.modules[package]
    loader: Any = module.__spec__ and module.__spec__.loader
    shown = dict(_imports(ast.parse(loader.get_source(package))))
    module.__dict__.update(_shown=shown, _guards=guards, __all__=sorted(shown))
    module.__class__ = Face


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, where it is defined) of every `from module import name` under `if TYPE_CHECKING:`."""
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                if isinstance(node, ast.ImportFrom):
                    yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
