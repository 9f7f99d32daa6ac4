"""monosem: train, score and look at sparse autoencoders, transcoders and crosscoders.

    import monosem as ms

    sae = ms.fit("topk(k=32)", rows, n_q=4096)
    code = sae.model.encode(rows)   # sparse latents
    features = sae.model.W_D        # a feature a column

Every method is one value of x_r_hat = W_D sigma(W_E x_p + b_E) + b_D (Tang et al. 2025, arXiv 2512.05534). The names
here are what one starts with; the rest lies by idea in `ms.activations`, `ms.terms`, `ms.anchors`, `ms.train`,
`ms.data`, `ms.networks`, `ms.dictionary`, `ms.bench`, `ms.theory`, `ms.interop`, `ms.report` and `ms.base`. Each is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem import activations as activations
    from monosem import anchors as anchors
    from monosem import base as base
    from monosem import bench as bench
    from monosem import data as data
    from monosem import dictionary as dictionary
    from monosem import interop as interop
    from monosem import networks as networks
    from monosem import report as report
    from monosem import terms as terms
    from monosem import theory as theory
    from monosem import train as train
    from monosem.anchors.directions import Anchors as Anchors
    from monosem.anchors.directions import class_means as class_means
    from monosem.anchors.directions import load_anchors as load_anchors
    from monosem.anchors.directions import true_features as true_features
    from monosem.anchors.term import Anchoring as Anchoring
    from monosem.base.errors import MonosemError as MonosemError
    from monosem.base.version import __version__ as __version__
    from monosem.bench.tasks import TASKS as TASKS
    from monosem.bench.tasks import task as task
    from monosem.bench.world import World as World
    from monosem.bench.world import WorldSpec as WorldSpec
    from monosem.core.io import load_model as load_model
    from monosem.core.io import save_model as save_model
    from monosem.core.model import SDL as SDL
    from monosem.core.pairs import TensorSource as TensorSource
    from monosem.data.source import StoreSource as StoreSource
    from monosem.data.source import open_rows as open_rows
    from monosem.data.store import open_store as open_store
    from monosem.data.texts import text_batches as text_batches
    from monosem.front.fitting import discover as discover
    from monosem.front.fitting import fit as fit
    from monosem.front.looking import evaluate as evaluate
    from monosem.front.looking import inspect as inspect
    from monosem.front.looking import score as score
    from monosem.front.running import harvest as harvest
    from monosem.front.running import splice as splice
    from monosem.front.running import steer as steer
    from monosem.interop.api import describe as describe
    from monosem.interop.api import from_pretrained as from_pretrained
    from monosem.interop.api import load as load
    from monosem.interop.api import push_to_hub as push_to_hub
    from monosem.interop.api import save as save
    from monosem.methods import METHODS as METHODS
    from monosem.methods import Method as Method
    from monosem.methods import method as method
    from monosem.networks.edits import add as add
    from monosem.networks.edits import clamp as clamp
    from monosem.networks.edits import scale as scale
    from monosem.networks.edits import zero as zero
    from monosem.networks.live import LiveSource as LiveSource
    from monosem.networks.models import open_network as open_network
    from monosem.networks.network import network_scores as network_scores
    from monosem.theory.problem import Problem as Problem
    from monosem.train.config import FitConfig as FitConfig
    from monosem.train.result import Result as Result

show(__name__)
