"""Encoders and dictionaries of other kinds: forward pass and gradients against float64 oracles, and files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monosem.base import selection
from monosem.base.errors import ArgumentError, CheckpointError, RefusedError
from monosem.base.files import read_json, write_json
from monosem.core.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from monosem.core.computed import Archetypal, LowRank, TiedTargets
from monosem.core.constraints import UnitNorm
from monosem.core.dictionaries import DICTIONARIES, Dictionary, Free, Tied
from monosem.core.encoders import ENCODERS, Affine, Encoder, Refined
from monosem.core.init import Init
from monosem.core.io import load_model, save_model
from monosem.core.learned_encoders import Glu, Kronecker, Mlp, Route, Routed
from monosem.core.model import SDL
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Layout, Transcoder
from monosem.core.pursuit import Lista, MatchingPursuit
from monosem.core.units import Units

N_Q, N = 12, 7
KINDS: list[tuple[Encoder, Dictionary]] = [
    (Affine(), Tied()),
    (Refined(2, 0.3), Free()),
    (Refined(3), Tied()),
    (MatchingPursuit(3), Free()),
    (MatchingPursuit(2), Tied()),
    (Lista(2), Free()),
    (Affine(), LowRank(3)),
    (Lista(1), LowRank(2)),
    (Affine(), Archetypal(4, 0.5)),
    (Refined(2), Archetypal(3, 0.0)),
    (Mlp(5), Free()),
    (Glu(), Tied()),
    (Kronecker(2, 3), Free()),
    (Routed(3, 2), Free()),
    (Routed(3, 2, scaled=True), Free()),
]


def model_of(encoder: Encoder, dictionary: Dictionary, activation: Activation, private: float = 0.0) -> SDL:
    """Float64, every parameter drawn."""
    layout = Crosscoder(private).layout(N_Q, (4, 3), (4, 3)) if private else SAE().layout(N_Q, (N,), (N,))
    model = SDL(layout, activation, "free", encoder, dictionary).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("enc.rate", "act.")):
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.train()


def rows(count: int = 9) -> Tensor:
    return torch.randn(count, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def decoder_of(model: SDL) -> Tensor:
    """W_D from the parameters that its dictionary has, block by block."""
    own, rows = dict(model.decoder.named_parameters()), torch.zeros(N_Q, N, dtype=torch.float64)
    if isinstance(model.dictionary, Tied):
        return model.W_E.T
    if isinstance(model.dictionary, Archetypal):
        exponents = own["logits"].exp()
        length = (own["drifts"] ** 2).sum(1, keepdim=True).sqrt()
        drift = own["drifts"] * torch.where(length > model.dictionary.drift, model.dictionary.drift / length, 1.0)
        whole = exponents / exponents.sum(1, keepdim=True) @ own["points"] + drift
        mask = torch.zeros(N_Q, N, dtype=torch.float64)
        for block in model.layout.decoder:
            mask[block.first : block.last, block.left : block.right] = 1
        return (whole * mask).T
    for i, block in enumerate(model.layout.decoder):
        part = own[f"left.{i}"] @ own[f"right.{i}"] if isinstance(model.dictionary, LowRank) else own[f"weights.{i}"]
        frame = (block.left, N - block.right, block.first, N_Q - block.last)
        rows = rows + torch.nn.functional.pad(part, frame)
    return rows.T


def pursuit(left: Tensor, W_D: Tensor, steps: int) -> Tensor:
    """Matching pursuit of one row, with columns of any length."""
    z = torch.zeros(W_D.shape[1], dtype=left.dtype)
    for _ in range(steps):
        cosines = [float(left.detach() @ w.detach()) / float(w.detach().norm()) for w in W_D.T]
        j = max(range(len(cosines)), key=cosines.__getitem__)
        share = (left @ W_D[:, j]).clamp(min=0) / (W_D[:, j] @ W_D[:, j])
        z = z + share * torch.eye(len(z), dtype=left.dtype)[j]
        left = left - share * W_D[:, j]
    return z


def oracle(model: SDL, x: Tensor) -> tuple[Tensor, Tensor]:
    """(code, x_r_hat) written out: whole matrices, row by row sorting, nothing of the library but its parameters."""
    W_E = model.W_E
    W_D = decoder_of(model)

    def sigma(z: Tensor) -> Tensor:
        activation = model.activation
        if isinstance(activation, BatchTopK):
            keep = torch.zeros(z.numel(), dtype=torch.bool)
            keep[z.flatten().argsort(descending=True)[: int(activation.k * len(z))]] = True
            keep = keep.view_as(z) & (z > 0)
        elif isinstance(activation, TopK):
            order = z.argsort(1, descending=True)[:, : activation.k]
            keep = torch.zeros_like(z, dtype=torch.bool).scatter(1, order, True) & (z > 0)
        else:
            keep = z > 0
        return z * keep

    z = (x - model.b_in) @ W_E.T + model.b_E
    if isinstance(model.encoder_kind, MatchingPursuit):
        z = torch.stack([pursuit(row - model.b_D, W_D, model.encoder_kind.steps) for row in x])
    z = learned(model, x - model.b_in, z)
    if isinstance(model.encoder_kind, Lista):
        rates = model.enc["log_rate"].exp()
        z = rates[0] * z
        for rate in rates[1:]:
            z = sigma(z) + rate * ((x - model.b_in - sigma(z) @ W_D.T) @ W_E.T + model.b_E)
    if isinstance(model.encoder_kind, Refined):
        for rate in model.enc["rate"]:
            z = z + rate * (x - model.b_D - sigma(z) @ W_D.T) @ W_D
    return sigma(z), sigma(z) @ W_D.T + model.b_D


def learned(model: SDL, x: Tensor, z: Tensor) -> Tensor:
    """z of an encoder with weights of its own, entry by entry."""
    kind, own = model.encoder_kind, dict(model.enc.items())
    if isinstance(kind, Mlp):
        return z + (own["first"] @ x.T + own["bias"][:, None]).clamp(min=0).T @ own["second"].T
    if isinstance(kind, Glu):
        return z / (1 + (-(x @ own["gate"].T) - own["bias"]).exp())
    if isinstance(kind, Kronecker):
        u, v = x @ own["left"].T + own["left_bias"], x @ own["right"].T + own["right_bias"]
        wide = N_Q // (kind.heads * kind.left)
        pairs = [
            (u[:, h * kind.left + i], v[:, h * wide + j])
            for h in range(kind.heads) for i in range(kind.left) for j in range(wide)
        ]  # fmt: skip
        roots = [[(a * b).sqrt() if a > 0 and b > 0 else a * 0 for a, b in zip(*pair, strict=True)] for pair in pairs]
        return torch.stack([torch.stack(column) for column in roots], 1)
    if isinstance(kind, Routed):
        odds = (x @ own["router"].T).exp()
        p, size = odds / odds.sum(1, keepdim=True), N_Q // kind.experts
        least = p.sort(1, descending=True).values[:, kind.active - 1]
        gates = [p[:, j // size] * (p[:, j // size] >= least) for j in range(N_Q)]
        if kind.scaled:
            mean = torch.stack([model.W_E[j // size * size : (j // size + 1) * size].mean(0) for j in range(N_Q)])
            factor = torch.stack([1 + own["scale"][j // size] for j in range(N_Q)])
            z = x @ (mean + factor[:, None] * (model.W_E - mean)).T + model.b_E
        return z * torch.stack(gates, 1)
    return z


@pytest.mark.parametrize("private", [0.0, 0.25])
@pytest.mark.parametrize("activation", [ReLU(), TopK(3), BatchTopK(2.0)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(("encoder", "dictionary"), KINDS, ids=str)
def test_forward_and_every_gradient_are_the_equation(
    encoder: Encoder, dictionary: Dictionary, activation: Activation, private: float
) -> None:
    if private and isinstance(encoder, Mlp | Glu | Kronecker | Routed):
        with pytest.raises(RefusedError, match="may read its block alone"):
            model_of(encoder, dictionary, activation, private)
        return
    model, x, pull = model_of(encoder, dictionary, activation, private), rows(), rows(1)
    out = model(x, (selection.TopK(2), selection.Every()))
    code, x_r_hat = oracle(model, x)
    torch.testing.assert_close(out.code.to_dense(), code)
    torch.testing.assert_close(out.x_r_hat, x_r_hat)
    if not isinstance(encoder, Kronecker | Routed):  # whose z is 0 itself in many cells
        assert int((out.extra[selection.TopK(2)].to_dense() != 0).sum()) == 2 * len(x)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = (out.x_r_hat * pull).pow(2).sum() + out.code.to_dense().sum()
    options = {"allow_unused": True, "materialize_grads": True}  # matching pursuit reads no W_E
    gradients = torch.autograd.grad(total, [*parameters.values()], **options)
    wanted = torch.autograd.grad((x_r_hat * pull).pow(2).sum() + code.sum(), [*parameters.values()], **options)
    for name, a, b in zip(parameters, gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")
    assert ("enc.rate" in parameters) == isinstance(encoder, Refined)


def test_a_router_reads_one_source_of_each_row() -> None:
    layout = Crosscoder().layout(N_Q, (3, 3, 3), (3, 3, 3))
    model = SDL(layout, TopK(3), "free", Route()).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    parts = torch.split(x, 3, dim=1)
    W = sum(torch.split(model.W_E, 3, dim=1))
    z, chosen = [], set()
    for i in range(len(x)):
        odds = [float((model.enc["router"][s] @ sum(part[i] for part in parts)).detach()) for s in range(3)]
        s = max(range(3), key=odds.__getitem__)
        p = (model.enc["router"] @ sum(part[i] for part in parts)).softmax(0)[s]
        z.append(p * W @ (parts[s][i] - model.b_in[3 * s : 3 * s + 3]) + model.b_E)
        chosen.add(s)
    assert len(chosen) > 1
    z = torch.stack(z)
    code = z * (z >= z.sort(1, descending=True).values[:, 2:3]) * (z > 0)
    wanted = code @ model.W_D.T + model.b_D
    torch.testing.assert_close(model(x).x_r_hat, wanted)
    parameters = dict(model.named_parameters())
    found, exact = (torch.autograd.grad(y.pow(2).sum(), [*parameters.values()]) for y in (model(x).x_r_hat, wanted))
    for name, a, b in zip(parameters, found, exact, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("layout", [SAE().layout(N_Q, (6,), (6,)), Crosscoder().layout(N_Q, (4, 3), (4, 3))])
def test_a_router_needs_sources_of_one_width(layout: Layout) -> None:
    with pytest.raises(RefusedError, match="chooses among sources of one width"):
        SDL(layout, ReLU(), encoder=Route())


def test_weights_of_an_encoder_are_drawn_by_the_seed() -> None:
    drawn = []
    for seed in (0, 0, 1):
        model = SDL(SAE().layout(N_Q, (N,), (N,)), ReLU(), encoder=Kronecker(2, 3))
        Init()(model, torch.zeros(3, N), torch.zeros(3, N), seed)
        drawn.append(model.enc["left"].detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert float((drawn[0] - drawn[2]).abs().min()) > 0
    assert 0.2 < float(drawn[0].std()) * N**0.5 < 2


@pytest.mark.parametrize(
    ("encoder", "why"), [(Kronecker(5, 1), "no multiple of heads"), (Routed(5), "does not split into experts=5")]
)
def test_latents_that_do_not_split_evenly_are_refused(encoder: Encoder, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        SDL(SAE().layout(N_Q, (N,), (N,)), ReLU(), encoder=encoder)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Routed(3, 4), "active=4 of experts=3"),
        (lambda: Mlp(0), "hidden=0"),
        (lambda: Kronecker(0), "heads=0"),
        (lambda: Kronecker(1, 0), "left=0"),
    ],
)
def test_sizes_of_encoders_out_of_range_are_one_clear_error(make: Callable[[], Encoder], why: str) -> None:
    with pytest.raises(ArgumentError, match=why):
        make()


def test_a_refined_code_leaves_less_over() -> None:
    model, x = model_of(Refined(4, 0.1), Tied(), ReLU()), rows(50)
    with torch.no_grad():
        model.encoder.scale_rows(1 / model.decoder_norm())
        refined = (x - model(x).x_r_hat).pow(2).sum()
        model.encoder_kind = Affine()
        assert refined < (x - model(x).x_r_hat).pow(2).sum()


def test_a_tied_dictionary_has_no_parameters_of_its_own() -> None:
    model = model_of(Affine(), Tied(), ReLU())
    assert {name for name, _ in model.named_parameters()} == {"encoder.weights.0", "b_E", "b_D", "_b_in"}
    assert torch.equal(model.W_D, model.W_E.T)
    model.decoder.set_rows(torch.tensor([3]), torch.ones(1, N, dtype=torch.float64))
    assert bool((model.W_E[3] == 1).all())
    assert not model_of(Affine(), Free(), ReLU()).plain


@pytest.mark.parametrize(("encoder", "dictionary"), [*KINDS, (Affine(), Free())], ids=str)
def test_kinds_come_back_from_a_file(encoder: Encoder, dictionary: Dictionary, tmp_path: Path) -> None:
    model = model_of(encoder, dictionary, TopK(3)).eval()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert (again.encoder_kind, again.dictionary) == (encoder, dictionary)
    assert {n: p.tolist() for n, p in again.named_parameters()} == {n: p.tolist() for n, p in model.named_parameters()}
    assert torch.equal(again(rows()).x_r_hat, model(rows()).x_r_hat)
    config = read_json(tmp_path / "config.json")
    assert ("encoder" in config, "dictionary" in config) == (encoder != Affine(), dictionary != Free())


@pytest.mark.parametrize("text", ["refined(steps=0)", "refind()", "refined(step=1)", "__import__('os')", "affine("])
def test_a_damaged_kind_is_one_clear_error(text: str, tmp_path: Path) -> None:
    save_model(model_of(Refined(), Free(), ReLU()), tmp_path)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | {"encoder": text})
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)


def test_what_does_not_go_together_is_refused() -> None:
    layout = Transcoder().layout(N_Q, (N,), (5,))
    with pytest.raises(RefusedError, match="does not reconstruct; use affine"):
        SDL(layout, ReLU(), encoder=Refined())
    with pytest.raises(
        RefusedError, match="tied dictionary needs W_E and W_D over the same columns, here n_p=7, n_r=5"
    ):
        SDL(layout, JumpReLU(), dictionary=Tied())
    with pytest.raises(ArgumentError, match="steps=0"):
        Refined(0)
    units = Units.of(rows(), rows(), (N,), (N,))
    with pytest.raises(RefusedError, match="units fold into an affine encoder"):
        units.fold(model_of(Affine(), Tied(), ReLU()))


def test_every_registered_kind_is_tried() -> None:
    assert {type(encoder) for encoder, _ in KINDS} | {Route} == set(ENCODERS.values())  # Route: a test of its own
    assert {type(dictionary) for _, dictionary in KINDS} | {TiedTargets} == set(DICTIONARIES.values())


def layers(rank: Dictionary) -> SDL:
    """A cross-layer transcoder over three layers, started as a method starts it."""
    model = SDL(CrossLayer().layout(9, (4, 3, 2), (5, 5, 5)), ReLU(), dictionary=rank)
    Init("random")(model, torch.randn(20, 9), torch.randn(20, 15), 0)
    return model


def test_a_latent_writes_one_vector_to_every_layer() -> None:
    model = layers(TiedTargets())
    assert torch.equal(model.W_D[:5, :3], model.W_D[5:10, :3])
    assert torch.equal(model.W_D[5:10, :6], model.W_D[10:, :6])
    assert not model.W_D[:10, 6:].any()
    (3 * model.W_D[10:, 0]).sum().backward()
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved == ["decoder.vectors.0"]
    model.decoder.set_rows(torch.tensor([4]), torch.arange(15.0)[None])
    torch.testing.assert_close(model.W_D[5:10, 4], torch.arange(7.5, 12.5))  # the mean of both targets
    with pytest.raises(RefusedError, match=r"targets of widths \(5, 4\) cannot share a column"):
        SDL(CrossLayer().layout(9, (4, 3), (5, 4)), ReLU(), dictionary=TiedTargets())


def test_low_rank_columns_span_a_subspace() -> None:
    with pytest.raises(ArgumentError, match="rank=0"):
        LowRank(0)
    assert torch.linalg.matrix_rank(layers(LowRank(1)).W_D[:, :3]) == 1
    model = layers(LowRank(2))
    assert torch.linalg.matrix_rank(model.W_D[:, :3]) == 2
    rows = torch.randn(2, 15)
    model.decoder.set_rows(torch.tensor([0, 2]), rows)
    basis = model.decoder.own["right.0"].detach()
    nearest = torch.linalg.lstsq(basis.T, rows.T).solution.T @ basis
    torch.testing.assert_close(model.W_D[:, [0, 2]].T, nearest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dictionary", [LowRank(2), TiedTargets()])
def test_computed_columns_keep_unit_norm(dictionary: Dictionary) -> None:
    model, constraint = layers(dictionary), UnitNorm()
    torch.testing.assert_close(model.decoder_norm(), torch.ones(9))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (model(torch.randn(8, 9)).x_r_hat - 1).pow(2).sum().backward()
        constraint.project_gradient(model)
        optimiser.step()
        constraint.after_step(model)
        torch.testing.assert_close(model.decoder_norm(), torch.ones(9))


def test_archetypal_columns_lie_in_the_hull_of_the_data() -> None:
    g = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(6, N, generator=g), dim=1) * 3
    sample = points.repeat_interleave(50, 0) + 0.01 * torch.randn(300, N, generator=g)
    model = SDL(SAE().layout(N_Q, (N,), (N,)), ReLU(), dictionary=Archetypal(6, 0.25))
    Init()(model, sample, sample, 0)
    centroids = model.decoder.own["points"]
    nearest = torch.cdist(sample, centroids).argmin(1)
    for number in nearest.unique().tolist():  # where Lloyd's algorithm ends, a centroid is the mean of its rows
        torch.testing.assert_close(centroids[number], sample[nearest == number].mean(0), rtol=1e-4, atol=1e-4)
    model.decoder.own["drifts"].data.add_(torch.randn(N_Q, N, generator=g))
    shares = model.decoder.own["logits"].softmax(1)
    torch.testing.assert_close((model.W_D.T - shares @ centroids).norm(dim=1), torch.full((N_Q,), 0.25))
    with pytest.raises(RefusedError, match="cannot be brought to unit norm"):
        UnitNorm().start(model)
    with pytest.raises(RefusedError, match="cannot be set"):
        model.decoder.set_rows(torch.tensor([0]), torch.zeros(1, N))
    assert model.encoder.own == {}


def test_a_pursuit_stops_where_nothing_is_left() -> None:
    model = model_of(MatchingPursuit(4), Free(), ReLU())
    with torch.no_grad():
        model.decoder.weights[0].copy_(torch.eye(N_Q, N, dtype=torch.float64))
        model.b_D.zero_()
        x = torch.tensor([[3.0, 0, 0, 0, 2.0, 0, 0], [-1.0] * N], dtype=torch.float64)
        code = model(x).code.to_dense()
    assert code[0].nonzero().flatten().tolist() == [0, 4]
    assert code[0, [0, 4]].tolist() == [3.0, 2.0]
    assert not code[1].any()
