"""monosem: one optimisation problem for sparse dictionary learning, checked against ground truth.

x_r_hat = W_D sigma(W_E x_p + b_E) + b_D: every sparse autoencoder, transcoder and crosscoder is a value
of this problem (Tang et al. 2025, arXiv 2512.05534).
"""

from monosem.anchors.directions import Anchors, class_means, load_anchors, true_features
from monosem.anchors.term import Anchoring
from monosem.base.errors import MonosemError
from monosem.core.io import load_model, save_model
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.methods import METHODS, Method, method
from monosem.train.config import FitConfig
from monosem.train.loop import Result, fit

__all__ = [
    "METHODS",
    "SDL",
    "Anchoring",
    "Anchors",
    "FitConfig",
    "Method",
    "MonosemError",
    "Result",
    "TensorSource",
    "class_means",
    "fit",
    "load_anchors",
    "load_model",
    "method",
    "save_model",
    "true_features",
]
