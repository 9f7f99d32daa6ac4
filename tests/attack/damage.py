"""What can be wrong with a file: operators by fault class, each applied to one file with a seeded generator."""

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Apply = Callable[[Path, Random, Path], None]
"""Damage a file; the last path is a marker that code hidden in it would make."""


@dataclass(frozen=True)
class Operator:
    """One way to damage files with some suffixes (none: any file)."""

    fault: str
    name: str
    suffixes: tuple[str, ...]
    apply: Apply

    def suits(self, path: Path) -> bool:
        """Whether it can be applied to a file of this name."""
        return not self.suffixes or path.name.endswith(self.suffixes)


OPERATORS: dict[str, Operator] = {}
TENSORS, JSON = (".safetensors",), (".json",)
SPARSE, BOMB = 1 << 33, 3 << 30


def operator(fault: str, *suffixes: str) -> Callable[[Apply], Apply]:
    """Register a function as an operator of a fault class."""

    def add(apply: Apply) -> Apply:
        name = apply.__name__.removeprefix("_").replace("_", " ")
        OPERATORS[name] = Operator(fault, name, suffixes, apply)
        return apply

    return add


def _rewrite(path: Path, change: Callable[[bytearray], Any]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


@operator("truncated")
def _cut(path: Path, rng: Random, marker: Path) -> None:
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


@operator("truncated")
def _empty(path: Path, rng: Random, marker: Path) -> None:
    os.truncate(path, 0)


@operator("bit flips")
def _one_bit(path: Path, rng: Random, marker: Path) -> None:
    at = rng.randrange(path.stat().st_size * 8)
    _rewrite(path, lambda data: data.__setitem__(at // 8, data[at // 8] ^ (1 << at % 8)))


@operator("bit flips")
def _bit_of_the_first_hundred_bytes(path: Path, rng: Random, marker: Path) -> None:
    at = rng.randrange(min(100, path.stat().st_size) * 8)
    _rewrite(path, lambda data: data.__setitem__(at // 8, data[at // 8] ^ (1 << at % 8)))


@operator("overwritten")
def _zeros_within(path: Path, rng: Random, marker: Path) -> None:
    start = rng.randrange(path.stat().st_size)
    _rewrite(path, lambda data: data.__setitem__(slice(start, start + 64), bytes(len(data[start : start + 64]))))


@operator("overwritten")
def _noise(path: Path, rng: Random, marker: Path) -> None:
    path.write_bytes(rng.randbytes(rng.randrange(1, 4096)))


@operator("too long")
def _a_tail(path: Path, rng: Random, marker: Path) -> None:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 512)))


@operator("too long")
def _eight_gigabytes_of_holes(path: Path, rng: Random, marker: Path) -> None:
    os.truncate(path, SPARSE)


@operator("missing")
def _missing(path: Path, rng: Random, marker: Path) -> None:
    path.unlink()


@operator("no plain file")
def _a_folder(path: Path, rng: Random, marker: Path) -> None:
    path.unlink()
    path.mkdir()


@operator("no plain file")
def _a_pipe(path: Path, rng: Random, marker: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@operator("symbolic links")
def _a_loop(path: Path, rng: Random, marker: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@operator("symbolic links")
def _a_device_without_end(path: Path, rng: Random, marker: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    places = [(value, key) for key, _ in inside]
    return places + [place for _, item in (value.items() if isinstance(value, dict) else ()) for place in _places(item)]


def _json(path: Path, rng: Random, change: Callable[[Any, Any], None]) -> None:
    document = json.loads(path.read_text())
    places = _places(document)
    if not places:
        path.write_text("null")
        return
    change(*rng.choice(places))
    path.write_text(json.dumps(document))


def _set(value: Any) -> Callable[[Any, Any], None]:
    return lambda inner, key: inner.__setitem__(key, value)


@operator("JSON: wrong type", *JSON)
def _another_type(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, _set(rng.choice([None, True, -1, 0, 1.5, 10**12, "x", [], [1, "a"], {}, {"a": None}])))


@operator("JSON: wrong type", *JSON)
def _another_root(path: Path, rng: Random, marker: Path) -> None:
    path.write_text(rng.choice(["[]", "null", "3", '"text"', "[[1]]", "{}"]))


@operator("JSON: fields", *JSON)
def _a_field_gone(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, lambda inner, key: inner.pop(key))


@operator("JSON: fields", *JSON)
def _a_new_field(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, lambda inner, key: inner.update(sha257="0") if isinstance(inner, dict) else inner.append("0"))


@operator("numbers out of range", *JSON)
def _a_number_out_of_range(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, _set(rng.choice([-(10**18), 10**18, 1e308, -1e-320, float("nan"), float("inf"), -float("inf")])))


@operator("numbers out of range", *JSON)
def _digits_without_end(path: Path, rng: Random, marker: Path) -> None:
    path.write_text('{"format": ' + "9" * 100_000 + "}")


@operator("recursion", ".json", ".jsonl", ".yaml", ".toml")
def _a_hundred_thousand_brackets(path: Path, rng: Random, marker: Path) -> None:
    path.write_text("[" * 100_000)


@operator("recursion", *JSON)
def _deep_inside(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, _set(json.loads("[" * 400 + "]" * 400)))


@operator("long texts", *JSON)
def _three_megabytes_of_text(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, _set("long " * 600_000))


@operator("long texts", *JSON)
def _a_long_name(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, lambda inner, key: inner.update({"n" * 1_000_000: 1}) if isinstance(inner, dict) else None)


@operator("control codes", *JSON)
def _control_codes(path: Path, rng: Random, marker: Path) -> None:
    _json(path, rng, _set("\x1b]0;title\x07\x1b[2J[red]\u202e</script><img onerror=x>../../etc\x00"))


@operator("not UTF-8", ".json", ".jsonl", ".txt", ".yaml", ".toml")
def _not_utf8(path: Path, rng: Random, marker: Path) -> None:
    _rewrite(path, lambda data: data.insert(rng.randrange(len(data) + 1), 0xFF))


def _tensors(path: Path, rng: Random, change: Callable[[dict[str, Tensor], str], None]) -> None:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    values = load_file(path)
    values = {name: tensor.clone() for name, tensor in values.items()}
    change(values, rng.choice(sorted(values)))
    path.unlink()
    save_file(values, path, metadata)


def _one(value: float) -> Callable[[dict[str, Tensor], str], None]:
    def change(values: dict[str, Tensor], name: str) -> None:
        if values[name].is_floating_point() and values[name].numel():
            values[name].view(-1)[values[name].numel() // 2] = value

    return change


@operator("not finite", *TENSORS)
def _a_nan(path: Path, rng: Random, marker: Path) -> None:
    _tensors(path, rng, _one(float("nan")))


@operator("not finite", *TENSORS)
def _an_infinity(path: Path, rng: Random, marker: Path) -> None:
    _tensors(path, rng, _one(rng.choice([float("inf"), -float("inf")])))


_KINDS = (torch.int8, torch.bool, torch.int64, torch.uint8, torch.float8_e4m3fn, torch.float16)


@operator("other dtypes", *TENSORS)
def _another_dtype(path: Path, rng: Random, marker: Path) -> None:
    kind = rng.choice(_KINDS)
    _tensors(path, rng, lambda values, name: values.__setitem__(name, values[name].to(kind)))


@operator("other shapes", *TENSORS)
def _half_of_a_tensor(path: Path, rng: Random, marker: Path) -> None:
    def change(values: dict[str, Tensor], name: str) -> None:
        values[name] = values[name].flatten()[: values[name].numel() // 2].clone()

    _tensors(path, rng, change)


@operator("other shapes", *TENSORS)
def _an_axis_more(path: Path, rng: Random, marker: Path) -> None:
    _tensors(path, rng, lambda values, name: values.__setitem__(name, values[name][None].clone()))


@operator("tensors missing or unknown", *TENSORS)
def _a_tensor_gone(path: Path, rng: Random, marker: Path) -> None:
    _tensors(path, rng, lambda values, name: values.pop(name) if len(values) > 1 else None)


@operator("tensors missing or unknown", *TENSORS)
def _a_tensor_more(path: Path, rng: Random, marker: Path) -> None:
    _tensors(path, rng, lambda values, name: values.__setitem__("more \x1b[2J", torch.zeros(2)))


@operator("forged headers", *TENSORS)
def _a_forged_length(path: Path, rng: Random, marker: Path) -> None:
    length = rng.choice([0, 1, 10**6, 2**40, 2**63, 2**64 - 1])
    _rewrite(path, lambda data: data.__setitem__(slice(0, 8), struct.pack("<Q", length)))


@operator("forged headers", *TENSORS)
def _a_forged_shape(path: Path, rng: Random, marker: Path) -> None:
    shape = rng.choice(["[1000000000000]", "[-1]", "[0]", "[1.5]", '["a"]', "null", "[18446744073709551615,2]"])
    header = f'{{"W_enc":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)


class _Code:
    """Pickled, this makes the marker wherever it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.marker}",))


@operator("hidden code", ".pt", ".npy", ".npz", ".bin", ".safetensors")
def _hidden_code(path: Path, rng: Random, marker: Path) -> None:
    hidden = np.array([_Code(marker)], dtype=object)
    if path.suffix == ".npz":
        np.savez(path, W_enc=hidden, allow_pickle=True)  # type: ignore[arg-type]
    elif path.suffix == ".npy":
        np.save(path, hidden, allow_pickle=True)
    else:
        torch.save({"encoder.weight": _Code(marker), "ae": _Code(marker)}, path)


@operator("hidden code", ".json", ".yaml")
def _code_by_name(path: Path, rng: Random, marker: Path) -> None:
    call = f"!!python/object/apply:os.system ['touch {marker}']"
    if path.suffix == ".yaml":
        path.write_text(f"model_name: {call}\n")
        return
    (path.parent / "code.py").write_text(f"import os\nos.system('touch {marker}')\nclass Model: pass\n")
    names = {"auto_map": {"AutoModel": "code.Model", "AutoTokenizer": ["code.Model", None]}, "model_type": "code"}
    names |= {"trust_remote_code": True, "activation": f"__import__('os').system('touch {marker}')"}
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | names if isinstance(document, dict) else names))


@operator("bombs", ".npz", ".pt", ".gz")
def _a_bomb(path: Path, rng: Random, marker: Path) -> None:
    """Three gigabytes of zeros in some megabytes; made once, then copied."""
    kept = Path("/tmp") / f"monosem-attack-bomb-{os.getuid()}{path.suffix}"
    if not kept.exists():
        part = kept.with_suffix(".part")
        if path.suffix == ".gz":
            _gzip_zeros(part)
        else:
            _zip_zeros(part, path)
        os.replace(part, kept)
    shutil.copy(kept, path)


def _gzip_zeros(part: Path) -> None:
    with gzip.open(part, "wb", compresslevel=1) as file:
        for _ in range(BOMB >> 24):
            file.write(bytes(1 << 24))


def _zip_zeros(part: Path, like: Path) -> None:
    """The archive's largest member, grown."""
    with zipfile.ZipFile(like) as whole, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb:
        largest = max(whole.infolist(), key=lambda member: member.file_size).filename
        for member in whole.namelist():
            with bomb.open(member, "w", force_zip64=True) as file:
                content = whole.read(member)
                file.write(_npy_header(BOMB // 4) if member == largest and like.suffix == ".npz" else content)
                for _ in range((BOMB >> 24) * (member == largest)):
                    file.write(bytes(1 << 24))


def _npy_header(numbers: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (numbers // 64, 64)})
    return buffer.getvalue()


@operator("forged headers", ".npy")
def _a_forged_array(path: Path, rng: Random, marker: Path) -> None:
    shape = rng.choice(
        ["(True, 12)", "(10**6, 10**6)", "(-1, 6)", "(3,", "('a',)", "(1.5, 2)", "[1, 2]", "(99999999999, 12)"]
    )
    kind = rng.choice(["<f4", "|O", "<c8", "<M8[s]", "|V4", "<U3", "nothing", "<f4" * 9])
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


@operator("not finite", ".npy")
def _a_nan_in_an_array(path: Path, rng: Random, marker: Path) -> None:
    values = np.load(path)
    values = values.astype(np.float32) if values.dtype.kind in "iu" else values
    if values.dtype.kind == "f":
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice([np.nan, np.inf])
    np.save(path, values)


@operator("other shapes", ".npy")
def _another_array(path: Path, rng: Random, marker: Path) -> None:
    values = np.load(path)
    others = [values[None], values.reshape(-1), values[:0], values.astype("S3"), values[..., :1], np.float32(3)]
    others += [np.array([b"\xff\xfe"] * 40), np.zeros((40, 0)), values == values]
    others += [] if values.dtype.kind in "SU" else [values.astype(complex)]
    np.save(path, rng.choice(others))


def _state(path: Path, rng: Random, change: Callable[[dict[str, Any], str], None]) -> None:
    state = dict(torch.load(path, weights_only=True))
    inner = state["ae"] if isinstance(state.get("ae"), dict) else state
    change(inner, rng.choice(sorted(inner)))
    torch.save(state, path)


@operator("tensors missing or unknown", ".pt")
def _an_entry_gone(path: Path, rng: Random, marker: Path) -> None:
    _state(path, rng, lambda state, name: state.pop(name))


@operator("tensors missing or unknown", ".pt")
def _an_entry_more(path: Path, rng: Random, marker: Path) -> None:
    _state(path, rng, lambda state, name: state.__setitem__("extra", torch.zeros(2)))


@operator("bombs", ".pt")
def _a_tensor_of_strides(path: Path, rng: Random, marker: Path) -> None:
    _state(path, rng, lambda state, name: state.__setitem__(name, torch.zeros(1).expand(10**6, 10**6)))


@operator("other dtypes", ".pt")
def _an_odd_entry(path: Path, rng: Random, marker: Path) -> None:
    odd = [3, "x", None, [1], {}, torch.zeros(3, dtype=torch.int8), torch.zeros(0)]
    odd.append(torch.zeros(2, dtype=torch.complex64))
    _state(path, rng, lambda state, name: state.__setitem__(name, rng.choice(odd)))


@operator("not finite", ".pt")
def _a_nan_in_an_entry(path: Path, rng: Random, marker: Path) -> None:
    def change(state: dict[str, Any], name: str) -> None:
        if isinstance(state[name], Tensor) and state[name].is_floating_point():
            state[name] = torch.full_like(state[name], float("nan"))

    _state(path, rng, change)


@operator("tables", ".parquet")
def _odd_columns(path: Path, rng: Random, marker: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    numbers = pyarrow.array(np.zeros(40, np.float32))
    odd = [
        pyarrow.Table.from_arrays([numbers, numbers], names=["a", "a"]),
        pyarrow.Table.from_arrays([], names=[]),
        pyarrow.table({"a": [None] * 40}),
        pyarrow.table({"a": [b"\xff"] * 40}),
        pyarrow.table({"a": [[1.0], [1.0, 2.0]] * 20}),
        pyarrow.table({"a": [{"b": 1}] * 40}),
        pyarrow.table({"text": [1, 2], "label": ["x", None]}),
    ]
    pyarrow.parquet.write_table(rng.choice(odd), path)
