"""Run as a program: compiles every Triton program to machine code for an H100 or H200, which needs no GPU."""

import sys
from typing import Any

F, B, LONG, N = "*fp32", "*bf16", "*i64", "i32"
_TWO_SETS = {
    "starts": LONG, "first": N, "index": LONG, "values": F, "x": F, "x_row": N, "partial": F,
    "starts2": LONG, "first2": N, "index2": LONG, "values2": F, "x2": F, "x2_row": N, "partial2": F,
}  # fmt: skip
_SUM = {"table": F, "table_row": N, "index": LONG, "values": F, "partial": F, "width": N}
_KEPT = {"bias": F, "floor": F, "reach_x": F, "reach_w": F, "kept": F, "place": "*i32", "count": "*i32", "capacity": N}
_PRODUCT = {"x_row": N, "weight_row": N, "batch": N, "n_q": N, "width": N, "tiles": N}
_ADAM = dict.fromkeys(("rate", "beta1", "left1", "beta2", "left2", "root", "eps"), "fp32")
_ROWS = {**_TWO_SETS, "weight": F, "base": F, "bounds": "*i32", "width": N}
_STEP = {**_ROWS, **_ADAM, "low": B, "mean": F, "square": F, "moved": "*i1", "scale": F}

_RUNS: dict[str, Any] = {"CELLS": 8, "WIDTH": 512, "CHUNK": 128, "DOUBLE": False}

PROGRAMS: list[tuple[str, dict[str, str], dict[str, Any], int]] = [
    ("bag", {**_SUM, "offsets": LONG, "out": F}, _RUNS, 4),
    ("bag", {**_SUM, "table": B, "offsets": LONG, "out": F}, _RUNS, 4),
    ("chunk", {**_SUM, "whole": "*i1"}, _RUNS, 4),
    ("inner", {**_PRODUCT, "x": F, "weight": B, "row": LONG, "col": LONG, "out": F, "cells": N},
     {"CELLS": 16, "WIDTH": 256, "DOUBLE": False}, 4),
    *(
        ("keep", {**_KEPT, "score": B if error else F, "score_row": N, "columns": N, "first": N},
         {"WIDTH": 2048, "BIAS": bias, "ERROR": error, "LAST": 2.0**-8}, 4)
        for bias, error in ((False, False), (True, False), (True, True))
    ),
    ("keep_product", {**_KEPT, **_PRODUCT, "x": B, "weight": B},
     {"ROWS": 128, "COLUMNS": 128, "DEPTH": 64, "ERROR": True, "LAST": 2.0**-20, "UPCAST": False}, 8),
    ("keep_product", {**_KEPT, **_PRODUCT, "x": F, "weight": F},
     {"ROWS": 64, "COLUMNS": 128, "DEPTH": 32, "ERROR": False, "LAST": 0.0, "UPCAST": False}, 8),
    ("narrow", {"weight": F, "weight_row": N, "low": B, "size": F, "off": F, "rows": N, "width": N},
     {"ROWS": 16, "WIDTH": 256, "COPY": True}, 4),
    ("row_norm", {**_ROWS, "out": F},
     {"BASE": True, "SETS": 2, "PROJECT": True, "CELLS": 4, "WIDTH": 4096, "CHUNK": 128}, 16),
    ("row_step", _STEP, {"BASE": False, "SETS": 1, "PROJECT": True, "UNIT": True, "MOVED": True, "LOW": True,
                         "CELLS": 4, "WIDTH": 4096, "CHUNK": 128}, 16),
    ("row_step", _STEP, {"BASE": True, "SETS": 0, "PROJECT": False, "UNIT": False, "MOVED": False, "LOW": False,
                         "CELLS": 8, "WIDTH": 1024, "CHUNK": 128}, 4),
]  # fmt: skip
"""Program, types of its arguments, constants, warps: as the package launches them at the paper's largest sizes."""


def main() -> None:
    """Compile them all; print each one's name and the size of its machine code."""
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from monosem.kernels.gpu.launch import program

    for name, types, constants, warps in PROGRAMS:
        kernel = program(name)
        signature = {one: "constexpr" if one in constants else types[one] for one in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        options = {"num_warps": warps, "enable_fp_fusion": True}
        made = compiled(source, target=GPUTarget("cuda", 90, 32), options=options)
        print(name, len(made.asm["cubin"]))


if __name__ == "__main__":
    sys.exit(main())
