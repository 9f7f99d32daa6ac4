"""Hook points of attention heads, [batch, time, heads, d_head] as hook_z: read, stored and rewritten side by side."""

from pathlib import Path

import torch
from torch import Tensor, nn

from monosem.networks.harvest import harvest
from monosem.networks.splice import splice
from tests.networks.llamas import trained
from tests.networks.networks import masked_batches

HEADS, D_HEAD = 2, 3


class Heads(nn.Module):
    """Words to heads, through a hook point, to words."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hook_z, self.out = nn.Embedding(40, HEADS * D_HEAD), nn.Identity(), nn.Linear(6, 40)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        z = self.hook_z(self.embed(input_ids).unflatten(-1, (HEADS, D_HEAD)))
        logits: Tensor = self.out(z.flatten(2))
        return logits


def test_heads_are_stored_side_by_side(tmp_path: Path) -> None:
    net = Heads()
    store = harvest(net, "hook_z:out", masked_batches(), tmp_path)
    assert store.widths == (HEADS * D_HEAD,)
    rows = store.table("hook_z:out").take(torch.arange(store.rows))
    assert torch.equal(rows, net.embed(torch.tensor(store.tokens[0 : store.rows]).long()).detach())


def test_heads_are_spliced_side_by_side() -> None:
    net, ids = Heads(), masked_batches()[1]["input_ids"]
    sae = trained("topk(k=2)", 12, (6,), (6,))
    half = torch.zeros(ids.shape, dtype=torch.bool)
    half[:, ::2] = True
    x = net.embed(ids)
    with splice(net, sae, "hook_z:out", mask=half), torch.no_grad():
        spliced = net(ids)
    wanted = torch.where(half[..., None], sae(x).x_r_hat, x)
    torch.testing.assert_close(spliced, net.out(wanted))
