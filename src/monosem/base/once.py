"""A property that is computed once."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """A property that is computed once per instance, as functools.cached_property without a lock.

    Python 3.11 has one lock for all instances: a thread that waits in a sum for the others would keep them out.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> T:
        value = self.make(instance)
        instance.__dict__[self.make.__name__] = value
        return value
