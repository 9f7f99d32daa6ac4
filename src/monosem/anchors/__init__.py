"""Directions that are known: from true features, class means or a file, and how latents are held to them."""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.anchors.directions import Anchors as Anchors
    from monosem.anchors.directions import AnchorWarning as AnchorWarning
    from monosem.anchors.directions import class_means as class_means
    from monosem.anchors.directions import load_anchors as load_anchors
    from monosem.anchors.directions import true_features as true_features
    from monosem.anchors.term import PRINTED as PRINTED
    from monosem.anchors.term import Anchoring as Anchoring

show(__name__)
