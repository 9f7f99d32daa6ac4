"""A dictionary in its network: harvest activations, splice reconstructions in, steer latents, score what is lost.

Sites are named by one grammar, as "model.layers.3:out" or "model.layers.*.mlp:in"; any torch module will do.
"""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.networks.captured import engine_captures as engine_captures
    from monosem.networks.edits import Edit as Edit
    from monosem.networks.edits import add as add
    from monosem.networks.edits import clamp as clamp
    from monosem.networks.edits import scale as scale
    from monosem.networks.edits import zero as zero
    from monosem.networks.finetune import in_network as in_network
    from monosem.networks.harvest import harvest as harvest
    from monosem.networks.live import LiveSource as LiveSource
    from monosem.networks.logits import LogitEffect as LogitEffect
    from monosem.networks.logits import logit_effect as logit_effect
    from monosem.networks.logits import unembedding as unembedding
    from monosem.networks.models import named_networks as named_networks
    from monosem.networks.models import open_network as open_network
    from monosem.networks.models import quiet as quiet
    from monosem.networks.network import Effect as Effect
    from monosem.networks.network import NetworkScores as NetworkScores
    from monosem.networks.network import network_scores as network_scores
    from monosem.networks.sampling import sample_texts as sample_texts
    from monosem.networks.sites import Site as Site
    from monosem.networks.sites import capture as capture
    from monosem.networks.sites import find_sites as find_sites
    from monosem.networks.splice import Spliced as Spliced
    from monosem.networks.splice import splice as splice
    from monosem.networks.steer import steer as steer

show(__name__)
