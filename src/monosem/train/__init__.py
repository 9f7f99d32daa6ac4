"""One loop that trains every method, resumes to the same bits after a kill, and leaves the process as it was."""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.base.schedule import Ramp as Ramp
    from monosem.base.schedule import WarmupDecay as WarmupDecay
    from monosem.losses.resample import Resample as Resample
    from monosem.methods import cross_layering as cross_layering
    from monosem.methods import crosscoding as crosscoding
    from monosem.methods import k_annealing as k_annealing
    from monosem.methods import transcoding as transcoding
    from monosem.methods import with_anchoring as with_anchoring
    from monosem.methods import with_resampling as with_resampling
    from monosem.methods.optimisers import OPTIMISERS as OPTIMISERS
    from monosem.methods.optimisers import Optimiser as Optimiser
    from monosem.train.config import FitConfig as FitConfig
    from monosem.train.loggers import Logger as Logger
    from monosem.train.loggers import logged as logged
    from monosem.train.loggers import tracker as tracker
    from monosem.train.loop import Callback as Callback
    from monosem.train.loop import fit as fit
    from monosem.train.mesh import open_mesh as open_mesh
    from monosem.train.result import Result as Result
    from monosem.train.state import Run as Run

show(__name__)
