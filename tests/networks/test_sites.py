"""Sites against calling the parts one after the other; hooks leave nothing behind."""

import pytest
import torch
from torch import Tensor, nn

from monosem.base.errors import ArgumentError, DataError, ShapeError
from monosem.data.store import match, parse_sites
from monosem.networks.sites import Site, capture, find_sites
from tests.networks.networks import Tiny, masked_batches, plain_rows


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("stop", [True, False])
def test_every_side_in_one_pass(stop: bool) -> None:
    """Keyword inputs, tuples, and a module inside that works in place."""
    model, batch = Tiny(), masked_batches()[2]
    wanted = plain_rows(model, batch)
    sites = find_sites({"": model}, "layers.*:in,out; layers.*.mlp:in,out; layers.1.mlp.0:out; head:in")
    with capture(model, sites, stop) as seen:
        found = {str(site): x for site, x in seen.run(model, batch).items()}
    for name in set(found) & set(wanted):
        torch.testing.assert_close(found[name], wanted[name])
    assert len(found) == 14
    assert len(set(found) & set(wanted)) == 13
    inside = model.layers[1].mlp[0](wanted["layers.1:in"])  # type: ignore[index, union-attr, operator]
    torch.testing.assert_close(found["layers.1.mlp.0:out"], inside)
    assert float(found["layers.1.mlp.0:out"].min()) < 0  # the ReLU that follows works in place
    assert _hooks(model) == 0


def test_a_pass_ends_at_the_last_site() -> None:
    model, calls = Tiny(), []
    model.head.register_forward_pre_hook(lambda *_: calls.append(1))
    for stop in (True, False):
        with capture(model, find_sites({"": model}, "layers.0:out"), stop) as seen:
            seen.run(model, masked_batches()[0])
    assert calls == [1]


def test_several_models_and_patterns() -> None:
    models = {"base": Tiny(), "tuned": Tiny(seed=1)}
    both = find_sites(models, "layers.[02]:out")
    assert [str(site) for site in both] == [
        "base/layers.0:out", "base/layers.2:out", "tuned/layers.0:out", "tuned/layers.2:out",
    ]  # fmt: skip
    assert find_sites(models, "tuned/head:in") == (Site("head", "in", "tuned"),)
    assert parse_sites("a.b:in,out;c:out;") == (("a.b", "in"), ("a.b", "out"), ("c", "out"))
    assert match("x*:out", ["x1:in", "x1:out", "x2:out", "y:out"]) == ("x1:out", "x2:out")
    names = ["layers.0", "layers.0.mlp", "layers.1", "norm"]
    assert match("layers.*:out", [f"{name}:out" for name in names]) == ("layers.0:out", "layers.1:out")
    assert match("**0**:out", [f"{name}:out" for name in names]) == ("layers.0:out", "layers.0.mlp:out")
    assert match("a/b[0]:out", ["a/b[0]:out"]) == ("a/b[0]:out",)  # a name as it is comes before a pattern


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layers.0", "write a module and its side"),
        ("layers.0:side", "a side is in or out, not 'side'"),
        ("", "no site is given"),
        (":in", "write a module and its side"),
        ("layer.0.mlp:in", r"no module is called 'layer.0.mlp'; there are layers.0.mlp, layers.1.mlp"),
    ],
)
def test_wrong_texts(text: str, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        find_sites({"": Tiny()}, text)


def test_what_gives_no_tensor_and_what_is_never_reached() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.a("words")
            return x

    odd = Odd()
    with capture(odd, find_sites({"": odd}, "a:out")) as seen, pytest.raises(ShapeError, match="a:out gives no tensor"):
        seen.run(odd, torch.zeros(1, 2))
    with capture(odd, find_sites({"": odd}, "b:out")) as seen, pytest.raises(DataError, match="never reached b:out"):
        seen.run(odd, torch.zeros(1, 2))
    assert _hooks(odd) == 0


def test_the_first_of_two_calls_counts() -> None:
    twice = nn.Sequential(nn.Linear(2, 2))
    twice.append(twice[0])
    x = torch.randn(3, 2)
    with capture(twice, find_sites({"": twice}, "0:out"), stop=False) as seen:
        torch.testing.assert_close(next(iter(seen.run(twice, x).values())), twice[0](x).detach())


def test_a_capture_inside_the_pass_of_another_leaves_it_open() -> None:
    """A module that reads a second network while the first runs: both see their own sites."""
    outer, inner, batch = Tiny(), Tiny(seed=1), masked_batches()[2]
    with capture(inner, find_sites({"": inner}, "layers.1:out")) as within:
        outer.layers[0].register_forward_hook(lambda *_: within.run(inner, batch) and None)
        with capture(outer, find_sites({"": outer}, "layers.2:out")) as seen:
            (rows,) = seen.run(outer, batch).values()
    torch.testing.assert_close(rows, plain_rows(Tiny(), batch)["layers.2:out"])
