"""The version of monosem, read without anything heavy."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("monosem")
except PackageNotFoundError:
    __version__ = "uninstalled"
