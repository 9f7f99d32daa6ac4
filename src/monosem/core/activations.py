"""Sparsifying activations by name; see activation.py for what each of them is made of."""

from monosem.base.registry import Registry
from monosem.core.activation import Activation, At, Context
from monosem.core.elementwise import Binary, Gated, JumpReLU, ReLU
from monosem.core.ranked import AbsTopK, AdaptiveK, BatchTopK, GroupMax, Threshold, TopK
from monosem.core.shared_out import FeatureChoice, MinFire

__all__ = [
    "ACTIVATIONS",
    "AbsTopK",
    "Activation",
    "AdaptiveK",
    "At",
    "BatchTopK",
    "Binary",
    "Context",
    "FeatureChoice",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "MinFire",
    "ReLU",
    "Threshold",
    "TopK",
]

ACTIVATIONS: Registry[type[Activation]] = Registry("activation")
ACTIVATIONS.add("relu", ReLU)
ACTIVATIONS.add("jumprelu", JumpReLU)
ACTIVATIONS.add("topk", TopK)
ACTIVATIONS.add("batch_topk", BatchTopK)
ACTIVATIONS.add("gated", Gated)
ACTIVATIONS.add("abs_topk", AbsTopK)
ACTIVATIONS.add("group_max", GroupMax)
ACTIVATIONS.add("binary", Binary)
ACTIVATIONS.add("min_fire", MinFire)
ACTIVATIONS.add("feature_choice", FeatureChoice)
ACTIVATIONS.add("adaptive_k", AdaptiveK)
