"""CHECKS, every check by its name, and SUITE, the problems that `monosem check` looks at by default."""

import torch

from monosem.base.registry import Registry
from monosem.base.seeds import philox
from monosem.core.activations import JumpReLU, TopK
from monosem.theory.checks.approximation import LOSS_APPROXIMATION
from monosem.theory.checks.base import Check, draw_problem, draw_weights, plane
from monosem.theory.checks.convexity import BICONVEXITY, CONVEX_REGIONS
from monosem.theory.checks.hierarchy import ABSORPTION, ABSORPTION_PRINTED, PARENT_INVISIBLE
from monosem.theory.checks.optima import CONSTRUCTION
from monosem.theory.checks.stationary import (
    DEAD_LATENTS,
    EXAMPLE_35,
    L1_SCALE,
    PERRON,
    PRINTED_36,
    REPAIRED_36,
    example_35,
)
from monosem.theory.checks.walls import CLOSED_36, WALL_ATTRACTS
from monosem.theory.checks.zero import ZERO_DIMENSION, ZERO_LOSS, ZERO_WITHOUT_RECOVERY
from monosem.theory.problem import Problem

CHECKS: Registry[Check] = Registry("check")
for _check in (
    LOSS_APPROXIMATION,
    BICONVEXITY,
    CONVEX_REGIONS,
    CONSTRUCTION,
    ZERO_LOSS,
    ZERO_WITHOUT_RECOVERY,
    ZERO_DIMENSION,
    EXAMPLE_35,
    PRINTED_36,
    REPAIRED_36,
    PERRON,
    CLOSED_36,
    WALL_ATTRACTS,
    ABSORPTION,
    ABSORPTION_PRINTED,
    PARENT_INVISIBLE,
    DEAD_LATENTS,
    L1_SCALE,
):
    CHECKS.add(_check.name, _check)


SUITE: Registry[Problem] = Registry("problem")
SUITE.add("example 3.5", example_35()[0])
SUITE.add(
    "figure 4: four features in the plane",
    Problem(plane(0, 75, 170, 260), plane(0, 75, 170, 260), torch.ones(4), n_q=4),
)
SUITE.add("absorption counterexample", Problem(plane(0, 10, 95, -85), plane(0, 10, 95, -85), torch.ones(4), n_q=2))
SUITE.add("six features in four dimensions, ReLU", draw_problem(philox(0, "suite/relu"), 6, 4, 8))
SUITE.add("six features in four dimensions, top-2", draw_problem(philox(0, "suite/topk"), 6, 4, 8, None, TopK(2)))
SUITE.add("a transcoder with thresholds", draw_problem(philox(0, "suite/jump"), 5, 6, 6, 4, JumpReLU(theta=0.2)))
SUITE.add(
    "unequal weights", Problem(torch.eye(3), torch.eye(3), draw_weights(philox(0, "suite/weights"), 3) ** 4, TopK(1), 3)
)
