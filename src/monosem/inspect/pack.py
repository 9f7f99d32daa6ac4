"""Arrays and JSON as one text that a page can hold: bytes by plane, deflated, in base64."""

import base64
import json
import zlib
from typing import Any

import numpy as np

_TYPES = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "i1": "<i1", "i2": "<i2", "i4": "<i4", "f4": "<f4"}


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """base64 of deflate of: the header's length (4 bytes, little endian), the header as JSON, and the arrays.

    The header gains `arrays`: name -> [type, size, first byte]. An array is stored by planes, all lowest bytes first,
    then all second ones and so on, which deflates better than number by number.
    """
    parts, table, at = [], {}, 0
    for name, array in arrays.items():
        kind = array.dtype.str[1:]
        flat = np.ascontiguousarray(array.reshape(-1), dtype=_TYPES[kind])
        planes = flat.view(np.uint8).reshape(flat.size, flat.dtype.itemsize).T.tobytes()
        table[name] = [kind, flat.size, at]
        parts.append(planes)
        at += len(planes)
    text = json.dumps(header | {"arrays": table}, allow_nan=False).encode()
    return base64.b64encode(zlib.compress(b"".join([len(text).to_bytes(4, "little"), text, *parts]), 6)).decode()


def unpack(text: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The inverse of `pack`, up to the arrays' shapes; what the page's script does, for tests."""
    whole = zlib.decompress(base64.b64decode(text))
    first = 4 + int.from_bytes(whole[:4], "little")
    header, arrays = json.loads(whole[4:first]), {}
    for name, (kind, size, at) in header.pop("arrays").items():
        dtype = np.dtype(_TYPES[kind])
        planes = np.frombuffer(whole, np.uint8, size * dtype.itemsize, first + at).reshape(dtype.itemsize, size)
        arrays[name] = np.ascontiguousarray(planes.T).view(dtype).reshape(size)
    return header, arrays


def small(values: np.ndarray) -> np.ndarray:
    """Whole numbers >= 0 in the smallest type that holds them."""
    largest = int(values.max(initial=0))
    return values.astype(np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.uint32)


def quantised(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """round(32767 values / scale) in 16 bits; |values| <= scale, and a zero scale gives zeros."""
    divisor = np.where(np.asarray(scale) > 0, scale, 1.0)
    return np.clip(np.rint(32767.0 * values / divisor), -32767, 32767).astype(np.int16)
