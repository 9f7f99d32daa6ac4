"""Two GPUs that are not there: tensors that say gpu:0 or gpu:1 and are computed on the CPU, so that faults of
placement show on any machine. An operation on tensors of two devices raises, as a GPU's would."""

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

CPU = torch.device("cpu")


class Elsewhere(Tensor):
    """A CPU tensor that says that it lies on another device."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor, device: torch.device) -> "Elsewhere":
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            elem.shape,
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=device,
            requires_grad=elem.requires_grad,
        )
        made.elem = elem
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.device} {self.elem!r}"

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} tensor to numpy; use Tensor.cpu() first")

    def tolist(self) -> Any:
        return self.elem.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Tensors that are made on a GPU, or moved to one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._can_decompose() and func not in _NO_PARTS:  # in inference mode a composite comes whole
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return _run(func, args, kwargs or {})


_NO_PARTS = frozenset([torch.ops.aten.is_nonzero.default])


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    name = func.overloadpacket.__name__
    devices = {leaf.device for leaf in leaves if leaf.ndim > 0 or leaf.device != CPU}
    indexed = name in ("index", "index_put", "index_put_", "_index_put_impl_")
    if indexed:  # a GPU takes indices from the CPU
        devices = {args[0].device} | {i.device for i in args[1] if i is not None and i.device != CPU}
    if len(devices) > 1 and name not in ("copy_", "_to_copy"):
        raise RuntimeError(f"{name}: expected all tensors on one device, got {sorted(map(str, devices))}")
    given = kwargs.get("device")
    home = args[0].device if name in ("copy_", "_to_copy") else next(iter(devices), CPU)
    target = home if given is None else torch.device(given)
    plain = {**kwargs, "device": CPU} if given is not None else kwargs
    plain.pop("pin_memory", None)
    inner = tree_map(lambda leaf: leaf.elem if isinstance(leaf, Elsewhere) else leaf, (args, plain))
    out = func(*inner[0], **inner[1])
    if name.endswith("_") and not name.startswith("_") and isinstance(args[0], Tensor):
        return args[0]
    if target == CPU:
        return out
    return tree_map(lambda leaf: Elsewhere(leaf, target) if isinstance(leaf, Tensor) else leaf, out)


class _Module(_DummyBackendModule):
    """What torch asks a kind of device."""

    def device_count(self) -> int:
        """Two."""
        return 2

    def _lazy_init(self) -> None:
        """Nothing to begin."""


def begin() -> None:
    """Let "gpu:0" and "gpu:1" be written anywhere in this process, for as long as it lives."""
    _setup_privateuseone_for_python_backend("gpu", _Module())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes its numbers on the CPU and moves them
    _Factories().__enter__()
    threading.Thread.run = _run_there  # type: ignore[method-assign]  # a mode is a thread's own


_run_thread = threading.Thread.run


def _run_there(thread: threading.Thread) -> None:
    with _Factories():
        _run_thread(thread)


def placed(module: nn.Module, device: str) -> nn.Module:
    """A module whose parameters and buffers lie on a device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
    return module
