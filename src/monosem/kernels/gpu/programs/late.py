"""What stands for triton.language until Triton is imported: as much as annotations need."""

from types import SimpleNamespace
from typing import Any

tl: Any = SimpleNamespace(constexpr="constexpr")
