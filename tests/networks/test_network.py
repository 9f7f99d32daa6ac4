"""Scores on the network against a direct computation with hooks of the test's own, in numpy and float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monosem.base.errors import ArgumentError, DataError, RefusedError, ShapeError
from monosem.core.model import SDL
from monosem.data.batches import TokenFilter
from monosem.networks.network import Effect, NetworkScores, network_scores
from tests.networks.llamas import MLP, WIDTH, ids, llama, trained

Array = np.ndarray


def _texts() -> list[dict[str, Tensor]]:
    """Three batches of unequal length; the last rows are padded."""
    batches = []
    for seed, (rows, length) in enumerate(((3, 9), (2, 6), (4, 12))):
        mask = torch.ones(rows, length, dtype=torch.int64)
        mask[-1, length - 2 :] = 0
        tokens = ids(rows, length, seed)
        tokens[:, 0] = 1  # a special token, which the filter drops
        batches.append({"input_ids": tokens, "attention_mask": mask})
    return batches


def _run(
    model: Any, batch: dict[str, Tensor], put: dict[Any, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and what passes the modules; `put` stands in for the outputs of modules."""
    seen: dict[str, Tensor] = {}
    handles = []
    for number, layer in enumerate(model.model.layers):
        for name, module in ((f"layer{number}", layer), (f"mlp{number}", layer.mlp)):

            def hook(module: nn.Module, args: Any, out: Tensor, name: str = name) -> Tensor:
                if args:
                    seen[name + "_in"] = args[0]
                seen[name] = out
                return (put or {}).get(name, out)

            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        logits = model(**batch).logits
    for handle in handles:
        handle.remove()
    return logits, seen


def _log_p(logits: Tensor) -> Array:
    z = logits.double().numpy()
    z = z - z.max(-1, keepdims=True)
    found: Array = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return found


def _direct(model: Any, sdl: SDL, reads: list[str], writes: list[str], together: list[int]) -> dict[str, float]:
    """Everything by its definition: all tokens in memory, one list of rows, one list of predictions."""
    batches = _texts()
    kept = [(b["attention_mask"].bool() & (b["input_ids"] != 1)) for b in batches]
    clean = [_run(model, b) for b in batches]
    x_p = [torch.cat([seen[name] for name in reads], -1) for _, seen in clean]
    x_r = [torch.cat([seen[name] for name in writes], -1) for _, seen in clean]
    with torch.no_grad():
        done = [sdl(x[k]) for x, k in zip(x_p, kept, strict=True)]
    y = torch.cat([x[k] for x, k in zip(x_r, kept, strict=True)]).double().numpy()
    y_hat = torch.cat([d.x_r_hat for d in done]).double().numpy()
    codes = torch.cat([d.code.to_dense() for d in done]).numpy()
    scores = {
        "tokens": len(y),
        "fvu": float(((y - y_hat) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()),
        "l0": float((codes != 0).sum(1).mean()),
        "dead": float((codes == 0).all(0).mean()),
        "cosine": float(((y * y_hat).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(y_hat, axis=1)).mean()),
    }
    mean = torch.from_numpy(y.mean(0)).float()
    width = y.shape[1] // len(writes)
    sums: dict[str, float] = {}
    count = 0
    for batch, keep, (logits, seen), d in zip(batches, kept, clean, done, strict=True):
        pair = (keep[:, :-1] & keep[:, 1:]).numpy()
        target = batch["input_ids"][:, 1:].numpy()[pair]
        p = _log_p(logits)[:, :-1][pair]
        count += len(target)
        sums["clean"] = sums.get("clean", 0) - p[np.arange(len(target)), target].sum()
        for kind, rows in (("spliced", d.x_r_hat), ("zero", torch.zeros_like(d.x_r_hat)), ("mean", mean)):
            put = {}
            for number in together:
                columns = slice(number * width, (number + 1) * width)
                new = seen[writes[number]].clone()
                new[keep] = rows[..., columns]
                put[writes[number]] = new
            q = _log_p(_run(model, batch, put)[0])[:, :-1][pair]
            sums["ce_" + kind] = sums.get("ce_" + kind, 0) - q[np.arange(len(target)), target].sum()
            sums["kl_" + kind] = sums.get("kl_" + kind, 0) + (np.exp(p) * (p - q)).sum()
    return scores | {"predictions": count} | {name: float(total / count) for name, total in sums.items()}


def _compare(found: NetworkScores, effect: Effect, wanted: dict[str, float]) -> None:
    assert (found.tokens, found.predictions) == (wanted["tokens"], wanted["predictions"])
    for name in ("fvu", "l0", "dead", "cosine"):
        assert getattr(found, name) == pytest.approx(wanted[name], rel=1e-5), name
    assert effect.ce["clean"] == pytest.approx(wanted["clean"], rel=1e-5)
    for name in ("spliced", "zero", "mean"):
        assert effect.ce[name] == pytest.approx(wanted["ce_" + name], rel=1e-5), name
        assert effect.kl[name] == pytest.approx(wanted["kl_" + name], rel=1e-4, abs=1e-6), name
    for name in ("zero", "mean"):
        lost = wanted["ce_" + name] - wanted["clean"]
        share = (wanted["ce_" + name] - wanted["ce_spliced"]) / lost if lost > 0 else None
        if share is None or effect.recovered(name) is None:
            assert abs(lost) < 1e-3 or effect.recovered(name) == share
        else:
            assert effect.recovered(name) == pytest.approx(share, rel=1e-3)


KEEP = TokenFilter(drop=(1,))
EVERY = ("spliced", "zero", "mean")


def test_a_sparse_autoencoder_on_the_stream() -> None:
    model, sae = llama(), trained("topk(k=6)", 24, (WIDTH,), (WIDTH,))
    with torch.no_grad():
        sae.b_E[-3:] = -1e3  # three latents that never fire
    found = network_scores(model, sae, "model.layers.1:out", _texts(), keep=KEEP, kl=EVERY)
    wanted = _direct(model, sae, ["layer1"], ["layer1"], [0])
    assert wanted["tokens"] == 3 * 8 + 2 * 5 + 4 * 11 - 3 * 2
    assert 0 < wanted["dead"] < 1
    _compare(found, found.effects[0], wanted)
    assert found.effects[0].sites == ("model.layers.1:out",)
    assert found.fvu_at == {"model.layers.1:out": pytest.approx(found.fvu)}


@pytest.mark.parametrize("text", ["topk_transcoder(k=6)", "relu_l1_skip_transcoder"])
def test_a_transcoder_in_the_place_of_the_mlp(text: str) -> None:
    model, coder = llama(), trained(text, 24, (WIDTH,), (WIDTH,))
    found = network_scores(model, coder, MLP.format(1) + ":in,out", _texts(), keep=KEEP, kl=EVERY)
    _compare(found, found.effects[0], _direct(model, coder, ["mlp1_in"], ["mlp1"], [0]))


def test_a_crosscoder_at_each_source_and_at_all() -> None:
    model, coder = llama(), trained("topk_crosscoder(k=6)", 24, (WIDTH, WIDTH), (WIDTH, WIDTH))
    found = network_scores(model, coder, "model.layers.0:out; model.layers.2:out", _texts(), keep=KEEP, kl=EVERY)
    names = ["layer0", "layer2"]
    assert [len(effect.sites) for effect in found.effects] == [1, 1, 2]
    for effect, together in zip(found.effects, ([0], [1], [0, 1]), strict=True):
        _compare(found, effect, _direct(model, coder, names, names, together))
    assert set(found.fvu_at) == {"model.layers.0:out", "model.layers.2:out"}


def test_a_cross_layer_transcoder() -> None:
    model, coder = llama(2), trained("topk_cross_layer(k=6)", 24, (WIDTH, WIDTH), (WIDTH, WIDTH))
    found = network_scores(model, coder, "model.layers.*.mlp:in,out", _texts(), keep=KEEP, kl=EVERY)
    wanted = _direct(model, coder, ["mlp0_in", "mlp1_in"], ["mlp0", "mlp1"], [0, 1])
    _compare(found, found.effects[2], wanted)


def _own_words(model: Any) -> Tensor:
    """Text that the network predicts well, so that ablation costs it something."""
    found: Tensor = model.generate(ids(6, 2), max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)
    return found


def test_how_the_text_is_cut_into_batches_changes_nothing() -> None:
    """Sums over tokens, so that a batch of few tokens does not weigh as much as one of many."""
    model, sae = llama(), trained("topk(k=6)", 24, (WIDTH,), (WIDTH,))
    whole = [_own_words(model)]
    cut = [whole[0][:1], whole[0][1:6]]
    one, other = (network_scores(model, sae, "model.layers.1:out", b) for b in (whole, cut))
    assert one.fvu == pytest.approx(other.fvu, rel=1e-6)
    assert one.effects[0].kl["spliced"] == pytest.approx(other.effects[0].kl["spliced"], rel=1e-5)
    assert one.effects[0].recovered() == pytest.approx(other.effects[0].recovered(), rel=1e-4)


def test_a_perfect_reconstruction_recovers_everything() -> None:
    model = llama()
    sae = trained("relu_l1", 2 * WIDTH, (WIDTH,), (WIDTH,))
    with torch.no_grad():  # x = relu(x) - relu(-x)
        eye = torch.eye(WIDTH)
        sae.encoder.weights[0].copy_(torch.cat([eye, -eye]))
        sae.decoder.weights[0].copy_(torch.cat([eye, -eye]))
        sae.b_E.zero_()
        sae.b_D.zero_()
    found = network_scores(model, sae, "model.layers.1:out", [_own_words(model)])
    assert found.fvu < 1e-12
    assert found.cosine == pytest.approx(1)
    assert found.effects[0].kl["spliced"] == pytest.approx(0, abs=1e-9)
    assert found.effects[0].ce["spliced"] == pytest.approx(found.effects[0].ce["clean"], rel=1e-7)
    assert [found.effects[0].recovered(name) for name in ("zero", "mean")] == pytest.approx([1, 1])
    plain = found.plain()
    assert plain["effects"][0]["recovered"]["zero"] == found.effects[0].recovered("zero")


def test_no_share_of_a_loss_that_is_not_there() -> None:
    ce = {"clean": 2.0, "spliced": 2.5, "zero": 4.0, "mean": 1.9}
    effect = Effect(("x",), ce, {})
    assert effect.recovered("zero") == 0.75
    assert effect.recovered("mean") is None
    assert math.isfinite(effect.recovered() or 0)


class Mute(nn.Module):
    """A network without logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.embed(x)[:, :, 0]
        return found


def test_refusals() -> None:
    model, sae = llama(), trained("topk(k=6)", 24, (WIDTH,), (WIDTH,))
    at = "model.layers.1:out"
    with pytest.raises(DataError, match="batches can be read only once"):
        network_scores(model, sae, at, iter(_texts()))
    with pytest.raises(DataError, match="no token is counted"):
        network_scores(model, sae, at, [])
    with pytest.raises(DataError, match="no token is counted"):
        network_scores(model, sae, at, _texts(), keep=TokenFilter(first=50))
    with pytest.raises(DataError, match="no two neighbouring tokens"):
        network_scores(model, sae, at, _texts(), keep=TokenFilter(first=0, last=1))
    with pytest.raises(RefusedError, match=r"Mute gives \(3, 9\), not logits \[batch, 9, vocabulary\]"):
        network_scores(Mute().eval(), sae, "embed:out", [ids()])
    with pytest.raises(ShapeError, match="means 2 sites to read and 2 to write"):
        network_scores(model, sae, "model.layers.[01]:out", _texts())
    with pytest.raises(Exception, match="training mode"):
        network_scores(llama().train(), sae, at, _texts())


def test_losses_do_not_depend_on_how_many_predictions_are_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the KL is only of what is asked for."""
    model, sae = llama(), trained("topk(k=4)", 24, (WIDTH,), (WIDTH,))
    whole = network_scores(model, sae, "model.layers.1:out", _texts(), keep=KEEP)
    monkeypatch.setattr("monosem.networks.network._CELLS", 1)  # one prediction at a time
    single = network_scores(model, sae, "model.layers.1:out", _texts(), keep=KEEP)
    for name, value in whole.effects[0].ce.items():
        assert single.effects[0].ce[name] == pytest.approx(value, rel=1e-6)
    assert single.effects[0].kl == pytest.approx(dict(whole.effects[0].kl), rel=1e-5)
    assert list(whole.effects[0].kl) == ["spliced"]
    with pytest.raises(ArgumentError, match=r"kl=\('swapped',\) names \['swapped'\]; known: spliced"):
        network_scores(model, sae, "model.layers.1:out", _texts(), keep=KEEP, kl=("swapped",))
