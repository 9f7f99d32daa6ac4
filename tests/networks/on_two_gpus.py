"""Checks of placement, in a process of its own: `python -m tests.networks.on_two_gpus` prints a line per check.

The network is split over gpu:0 and gpu:1 (tests/devices.py), the dictionary lies on gpu:1 and its dense path is taken,
as native kernels cannot run on tensors that are not where they say. Every result is compared with the CPU's.
"""

import copy
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from monosem.anchors.directions import Anchors
from monosem.bench.folds import FVU
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.data.batches import TokenFilter
from monosem.inspect.collect import collect
from monosem.inspect.explain import explain
from monosem.inspect.own import own_texts
from monosem.inspect.page import inspect_page
from monosem.inspect.rows import Rows
from monosem.networks.devices import input_device
from monosem.networks.edits import add, clamp
from monosem.networks.harvest import fingerprint, harvest
from monosem.networks.live import LiveSource
from monosem.networks.logits import logit_effect
from monosem.networks.network import network_scores
from monosem.networks.splice import splice
from monosem.networks.steer import steer
from tests.devices import begin, placed
from tests.inspect.samples import token_rows
from tests.networks.llamas import trained
from tests.networks.networks import Tiny, masked_batches

KEEP = TokenFilter(first=1)
MLP = "layers.1.mlp:in,out"


class Split(Tiny):
    """The embedding and the first layer on one device, the rest on another."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x, _ = layer(mask=attention_mask, hidden_states=x.to(_device(layer)))
        logits: Tensor = self.head(x.to(_device(self.head)))
        return logits


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def split() -> Split:
    """On two GPUs."""
    model = Split()
    for part, device in ((model.embed, 0), (model.layers[0], 0), (model.layers[1:], 1), (model.head, 1)):
        placed(part, f"gpu:{device}")
    return model


def dictionary(text: str, layers: int = 1) -> tuple[SDL, SDL]:
    """The same model on the CPU and on gpu:1."""
    here = trained(text, 12, (6,) * layers, (6,) * layers)
    here.path = "reference"
    there = placed(copy.deepcopy(here), "gpu:1")
    assert isinstance(there, SDL)
    return here, there


def near(one: Any, other: Any) -> None:
    """Equal numbers, wherever they lie."""
    torch.testing.assert_close(torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu(), rtol=1e-4, atol=1e-5)


def captured() -> None:
    """A store of sites on both devices."""
    sites = "layers.0:out; layers.2:out"
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        there = harvest(split(), sites, masked_batches(), one, keep=KEEP, pool="none")
        here = harvest(Tiny(), sites, masked_batches(), other, keep=KEEP)
        index = torch.arange(here.rows)
        for site in here.sites:
            near(there.table(site).take(index), here.table(site).take(index))
    assert input_device(split()) == torch.device("gpu:0")
    assert fingerprint(split())["sha256"] != ""


def streamed() -> None:
    """Rows of a stream from two devices."""
    there, here = (
        LiveSource(model, "layers.0:out; layers.2:out", None, masked_batches(), keep=KEEP, buffer=16, seed=3)
        for model in (split(), Tiny())
    )
    near(there.take(torch.arange(20))[0], here.take(torch.arange(20))[0])


def scored() -> None:
    """A transcoder, and a crosscoder whose sites lie on different devices."""
    for text, sites in (("relu_l1_transcoder", MLP), ("relu_l1_crosscoder", "layers.0:out; layers.2:out")):
        here, there = dictionary(text, 1 if sites == MLP else 2)
        with torch.inference_mode(False):
            one = network_scores(split(), there, sites, masked_batches(), keep=KEEP).plain()
            other = network_scores(Tiny(), here, sites, masked_batches(), keep=KEEP).plain()
        for a, b in zip(one.pop("effects"), other.pop("effects"), strict=True):
            near(list(a["ce"].values()), list(b["ce"].values()))
            near(list(a["kl"].values()), list(b["kl"].values()))
        near(list(one.pop("fvu_at").values()), list(other.pop("fvu_at").values()))
        for a, b in zip(one.pop("unexplained").values(), other.pop("unexplained").values(), strict=True):
            near([float(v) for v in a.values()], [float(v) for v in b.values()])
        near([float(v) for v in one.values()], [float(v) for v in other.values()])


def spliced() -> None:
    """With and without the error, under a mask from the CPU."""
    here, there = dictionary("relu_l1_transcoder")
    tokens = masked_batches()[0]["input_ids"]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    for error in (False, True):
        with torch.no_grad(), splice(split(), there, MLP, error=error, mask=mask) as _:
            pass
        one, other = split(), Tiny()
        with splice(one, there, MLP, error=error, mask=mask):
            logits = one(tokens.to("gpu:0"))
        with splice(other, here, MLP, error=error, mask=mask):
            near(logits.detach(), other(tokens).detach())


def steered() -> None:
    """Edits with positions, masks and amounts from the CPU; another device than the site's."""
    here, there = dictionary("relu_l1_transcoder")
    there = placed(there, "gpu:0")  # type: ignore[assignment]
    tokens = masked_batches()[0]["input_ids"]
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[0, 1] = True
    edits = (add([2, 5], torch.tensor([0.5, 2.0]), at=slice(1, 3)), clamp(3, 1.5), clamp(4, -1.0, at=mask))
    one, other = split(), Tiny()
    with torch.no_grad(), steer(one, there, MLP, *edits), steer(other, here, MLP, *edits):
        near(one(tokens.to("gpu:0")), other(tokens))


def looked_at() -> None:
    """The page's numbers of a model on a GPU."""
    here, there = dictionary("relu_l1")
    rows = Rows(TensorSource(torch.randn(50, 6, generator=torch.Generator().manual_seed(0))))
    one, other = collect(there, rows), collect(here, rows)
    near(one.counts.fired, other.counts.fired)
    near(one.top.row, other.top.row)
    near(one.cosine, other.cosine)
    assert isinstance(FVU(), FVU)
    near(one.fvu, other.fvu)


class Headed(nn.Module):
    """A final norm and an unembedding, as a language model has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 11)
        nn.init.normal_(self.norm.weight)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.head


class Words:
    """A tokenizer of the numbers that it is given."""

    all_special_ids, all_special_tokens = (0,), ("w0",)

    def __call__(self, text: str, **_: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[0, *map(int, text.split())]])}

    def __len__(self) -> int:
        return 40

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """One each."""
        return [f"w{i}" for i in ids]


def shown() -> None:
    """The whole page: anchors from the CPU, a head on another device than its norm, a text of one's own."""
    headed, pages = (Headed(), Headed()), []
    placed(headed[1].norm, "gpu:0")
    placed(headed[1].head, "gpu:1")
    for model, head, network in zip(dictionary("relu_l1"), headed, (Tiny(), split()), strict=True):
        own = own_texts(model, network, Words(), ["5 9 5"], "layers.1:out")
        parts = {
            "effect": logit_effect(model, head, top=3),
            "anchors": Anchors(torch.eye(6)[:, :2], torch.eye(6)[:, :2]),
        }
        pages.append((inspect_page(model, token_rows(count=300), own=own, **parts), own[0].latents))
    assert pages[0] == pages[1]


def explained() -> None:
    """Passages and scores of a model on a GPU."""
    asked: list[list[str]] = [[], []]
    scores = [
        explain(model, token_rows(count=300), lambda prompt, kept=kept: kept.append(prompt) or "1", [0, 3])  # type: ignore[func-returns-value,misc]
        for model, kept in zip(dictionary("relu_l1"), asked, strict=True)
    ]
    assert scores[0] == scores[1]
    assert asked[0] == asked[1] != []


def main() -> None:
    """All of them."""
    begin()
    for check in (captured, streamed, scored, spliced, steered, looked_at, shown, explained):
        check()
        print(f"{check.__name__} ok", flush=True)


if __name__ == "__main__":
    main()
