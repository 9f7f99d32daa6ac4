"""Dictionaries from rows alone: anchors without labels, classical learners, sparse coding of a given dictionary."""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.dictionary.amortisation import model_amortisation as model_amortisation
    from monosem.dictionary.classical import CLASSICAL as CLASSICAL
    from monosem.dictionary.climb import Settings as Settings
    from monosem.dictionary.coded import reconstruct as reconstruct
    from monosem.dictionary.coding import nonnegative_lasso as nonnegative_lasso
    from monosem.dictionary.coding import nonnegative_omp as nonnegative_omp
    from monosem.dictionary.coding import stagewise_pursuit as stagewise_pursuit
    from monosem.dictionary.consensus import LEVELS as LEVELS
    from monosem.dictionary.consensus import consensus as consensus
    from monosem.dictionary.consensus import discover_often as discover_often
    from monosem.dictionary.consensus import levelled as levelled
    from monosem.dictionary.discover import CONFIDENCE as CONFIDENCE
    from monosem.dictionary.discover import Discovery as Discovery
    from monosem.dictionary.discover import discover as discover
    from monosem.dictionary.discover import ordinary_rows as ordinary_rows
    from monosem.dictionary.identified import Identified as Identified
    from monosem.dictionary.identified import identified as identified
    from monosem.dictionary.priced import priced_pursuit as priced_pursuit
    from monosem.dictionary.sparse_model import SparseModel as SparseModel
    from monosem.dictionary.sparse_model import described as described
    from monosem.dictionary.sparse_model import fit_background as fit_background
    from monosem.dictionary.sparse_model import gain as gain

show(__name__)
