"""OpenAI's sparse_autoencoder: one .pt file whose state holds the activation's name; read."""

from monosem.base.errors import CheckpointError, RefusedError
from monosem.core.activations import Activation, ReLU, TopK
from monosem.core.rownorm import RowNorm
from monosem.interop.build import assemble, sae
from monosem.interop.files import FORMATS, Candidate, Format, Loaded


def _recognise(candidate: Candidate) -> bool:
    """A .pt file with pre_bias and latent_bias."""
    name = candidate.only("*.pt")
    return name is not None and {"pre_bias", "latent_bias", "encoder.weight"} <= candidate.keys(name)


def read(candidate: Candidate) -> Loaded:
    """Read the file. TopK implies per-row layer normalisation in and out; a tied file has no decoder.weight."""
    name = candidate.only("*.pt")
    assert name is not None
    where = str(candidate.folder / name)
    t = candidate.tensors(name)
    kind, state = str(t.values.pop("activation", "ReLU")), t.values.pop("activation_state_dict", {})
    W_E = t.take("encoder.weight", 2)
    W_D = t.take("decoder.weight", 2, turned=True) if "decoder.weight" in t else W_E
    b_E, b_D = t.take("latent_bias", 1), t.take("pre_bias", 1)
    frequency = t.maybe("latents_activation_frequency", 1, finite=False, real=True)
    t.ignore("stats_last_nonzero", "latents_mean_square")
    t.done()
    activation: Activation = ReLU()
    if kind == "TopK":
        after = state.get("postact_fn", "ReLU")
        if after != "ReLU":
            raise RefusedError(f"{where}: TopK followed by {after} passes negative latents; TopK here applies ReLU")
        activation = TopK(int(state["k"]))
    elif kind != "ReLU":
        raise CheckpointError(f"{where}: activation {kind!r} is unknown; this format has ReLU and TopK")
    norm = RowNorm("layer_norm", 1e-5) if kind == "TopK" else None
    model = assemble(sae(W_E, W_D), activation, [W_E], [W_D], b_E, b_D, where=where, pre_bias="tied", norm=norm)
    dead = None if frequency is None else float((frequency == 0).double().mean())
    notes = ("TopK: rows are layer-normalised and the answer is brought back",) if norm else ()
    return Loaded(model, {"source": {"format": "openai", "config": {}}}, notes, dead)


FORMATS.add("openai", Format("OpenAI sparse_autoencoder", "<layer>.pt", _recognise, read))
