"""The network in the loop: a loss term of what the network says with the reconstruction in place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.base.errors import DataError, RefusedError, check
from monosem.base.schedule import Schedule
from monosem.base.seeds import torch_generator
from monosem.base.spec import digest
from monosem.core.activation import Context
from monosem.core.model import SDL
from monosem.core.units import Units
from monosem.data.batches import Batch, TokenFilter, number_documents
from monosem.losses.objective import State, Step, Term
from monosem.networks.devices import input_device, moved
from monosem.networks.harvest import fingerprint
from monosem.networks.rewrite import Reading, places, rewriting

Against = Literal["kl", "ce"]
_LOSSES: dict[str, "NetworkLoss"] = {}
"""By digest: a term is plain values, which a run's identity is made of, and finds its network here."""


@dataclass(frozen=True)
class InNetwork(Term):
    """What the network loses with x_r_hat in the place of x_r, in nats per prediction; made by `in_network`.

    Equation: kl: mean over counted predictions of KL(p_clean || p_spliced); ce: mean of -log p_spliced(next token).
        0 before the share `begin` of the run. With `balance` the value is that of |e|^2 (a sum over coordinates, a mean
        over rows), and the gradient that of the loss times their ratio, so that both weigh alike.
    Gradient: through the network, whose own weights are constants, into all of the model.
    Source: Karvonen 2025 (KL + MSE fine-tuning over the last tokens, balanced as here); Braun et al. 2024 (KL alone).
    """

    loss: str = ""
    begin: float = 0.9
    balance: bool = True
    name: ClassVar[str] = "in_network"

    def apply(self, step: Step, state: State) -> Float[Tensor, ""]:
        """One batch of tokens a step."""
        if step.context.step < self.begin * step.context.steps:
            return step.x_r.new_zeros(())
        check(self.loss in _LOSSES, "this term has lost its network; make it by in_network() in this process")
        value = _LOSSES[self.loss](step.model, step.context.step)
        if self.balance:
            value = value * (step.error.square().sum(1).mean() / value.detach().clamp(min=1e-12))
        return value


def in_network(
    network: nn.Module,
    at: str,
    batches: Sequence[Any],
    *,
    to: str | None = None,
    units: Units | None = None,
    keep: TokenFilter | None = None,
    against: Against = "kl",
    weight: Schedule = 1.0,
    begin: float = 0.9,
    balance: bool = True,
    seed: int = 0,
) -> InNetwork:
    """A term that splices the model into its network, to add to a method's terms.

    `at`, `to`: sites, as `places` reads them; one is read. `batches`: a list of what `harvest` takes, visited in a
    keyed order, one a step. `units`: those of the source that the model trains on (`source.units`), as the network
    gives raw rows. Other arguments: as for InNetwork.

    Example:
        >>> from dataclasses import replace
        >>> from monosem.methods import method
        >>> class Tiny(nn.Sequential):
        ...     def forward(self, input_ids): return super().forward(input_ids)
        >>> tiny = Tiny(nn.Embedding(9, 4), nn.Linear(4, 9)).eval()
        >>> term = in_network(tiny, "0:out", [torch.randint(9, (2, 5))], begin=0.5)
        >>> tuned = replace(method("topk(k=2)"), terms=(*method("topk(k=2)").terms, term))
    """
    check(against in ("kl", "ce"), f"against={against!r}; known: kl, ce")
    check(0 <= begin < 1, f"begin={begin}; it is a share of the run, from 0 to below 1")
    loss = NetworkLoss(network, at, to, batches, keep, units, against, seed)
    _LOSSES[loss.digest] = loss
    return InNetwork(weight, loss.digest, begin, balance)


class NetworkLoss:
    """The loss of one batch of tokens, of a model in place."""

    def __init__(
        self,
        network: nn.Module,
        at: str,
        to: str | None,
        batches: Sequence[Any],
        keep: TokenFilter | None,
        units: Units | None,
        against: Against,
        seed: int,
    ) -> None:
        check(not network.training, "the network is in training mode (dropout acts); call model.eval() first")
        self.network, self.at, self.to, self.units, self.against, self.seed = network, at, to, units, against, seed
        self.batches = [batch for batch in number_documents(batches, keep) if _pairs(batch).any()]
        check(bool(self.batches), "no two neighbouring tokens are counted; give other batches", DataError)
        facts = [fingerprint(network), at, to, against, seed, None if units is None else units.digest]
        sums = [int(batch.token.sum()) for batch in self.batches if batch.token is not None]
        self.digest = digest([facts, len(self.batches), sums])

    def __call__(self, sdl: SDL, step: int) -> Float[Tensor, ""]:
        """Nats per counted prediction, differentiable in the model's parameters."""
        epoch, place = divmod(step, len(self.batches))
        generator = torch_generator(self.seed, "in network", epoch)
        batch = self.batches[int(torch.randperm(len(self.batches), generator=generator)[place])]
        pairs = _pairs(batch)
        where = places(sdl, self.network, self.at, self.to)
        if len(where.reads) > 1:
            raise RefusedError(f"the model reads {len(where.reads)} sites; the loss in the network needs one")
        frozen = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            splicing = _InPlace(sdl, self.units, batch)
            writes = [(site, partial(splicing.write, number)) for number, site in enumerate(where.writes)]
            with rewriting(self.network, [(where.reads[0], splicing.read), *writes]):
                logits = self._logits(batch)[:, :-1][pairs.to(splicing.device)]
            if self.against == "ce":
                assert batch.token is not None
                target = batch.token[:, 1:][pairs].to(logits.device)
                return nn.functional.cross_entropy(logits.float(), target).to(sdl.b_E.device)
            with torch.no_grad():
                clean = self._logits(batch)[:, :-1][pairs.to(splicing.device)].float().log_softmax(1)
            divergence = (clean.exp() * (clean - logits.float().log_softmax(1))).sum() / logits.shape[0]
            return divergence.to(sdl.b_E.device)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _logits(self, batch: Batch) -> Tensor:
        inputs = moved(batch.inputs, input_device(self.network))
        out = self.network(**inputs) if isinstance(inputs, Mapping) else self.network(inputs)
        logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
        if logits is None or logits.ndim != 3:
            raise RefusedError(f"{type(self.network).__name__} gives no logits [batch, time, vocabulary]")
        return logits


class _InPlace:
    """x_r_hat in the place of x_r at the counted tokens, in raw units, with its graph."""

    def __init__(self, sdl: SDL, units: Units | None, batch: Batch) -> None:
        assert batch.keep is not None
        self.sdl, self.units, self.keep, self.reading = sdl, units, batch.keep, Reading(sdl)
        self.device = torch.device("cpu")

    def read(self, x: Tensor) -> Tensor:
        """Encode and decode what is read."""
        self.reading.see(0, x)
        rows = self.reading.rows()
        if self.units is None:
            self.x_r_hat = self.sdl.forward(rows, context=Context()).x_r_hat
            return x
        here = Units(
            *(v.to(rows) for v in (self.units.p_mean, self.units.p_scale, self.units.r_mean, self.units.r_scale))
        )
        self.x_r_hat = self.sdl.forward(here.read(rows), context=Context()).x_r_hat / here.r_scale + here.r_mean
        return x

    def write(self, target: int, x: Tensor) -> Tensor:
        """The reconstruction of one target."""
        self.device = x.device
        new = self.x_r_hat[:, self.sdl.layout.r_slices[target]].reshape(x.shape).to(x)
        return torch.where(self.keep.to(x.device)[..., None], new, x)


def _pairs(batch: Batch) -> Tensor:
    """Predictions that count: the token and the next are counted. Raises: DataError for batches without tokens."""
    if batch.keep is None or batch.token is None:
        raise DataError("batches hold no tokens; give token numbers or a tokenizer's mappings")
    return batch.keep[:, :-1] & batch.keep[:, 1:]
