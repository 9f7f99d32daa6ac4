"""SDL: the one model. x_r_hat = W_D sigma(W_E (x_p - b_in) + b_E) + b_D + W_skip x_p."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from monosem.base.errors import ShapeError, check
from monosem.base.sparse import Code, DenseCode, Positions, SparseCode
from monosem.core.activations import Activation, At, Context
from monosem.core.blockmap import BlockMap
from monosem.core.encoding import Chosen, Encoder, Picked
from monosem.core.pairs import Layout
from monosem.core.selection import DENSE_ABOVE, Every, Request, Top, top_of_row
from monosem.kernels import dense, reference, sparse
from monosem.kernels.native.calls import usable
from monosem.kernels.native.certified import Halved, has_bfloat16

PreBias = Literal["none", "free", "tied"]
Selection = Literal["fp32", "bf16"]


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward pass: the code, its pre-activations, what terms requested, and the reconstruction when it is read.

    `cells` lie along `code` and hold z: of every cell where the code is dense, of the carried cells where it is sparse
    (any other cell has a zero latent and a closed gate). `extra[request]` is a code of z.
    """

    model: "SDL"
    x_p: Float[Tensor, "batch n_p"]
    code: Code
    cells: Code
    extra: dict[Request, Code]
    graph: bool

    @cached_property
    def x_r_hat(self) -> Float[Tensor, "batch n_r"]:
        """The reconstruction, differentiable if the pass was; read it before the weights move."""
        with torch.set_grad_enabled(self.graph):
            return self.model.decode(self.code, self.x_p)


class SDL(nn.Module):
    """Sparse dictionary learning, every flavour a value.

    Shapes: W_E [n_q, n_p], W_D [n_r, n_q], b_E [n_q], b_D [n_r], b_in [n_p], W_skip [n_r, n_p].
    `pre_bias`: "none" (b_in = 0), "free" (own parameter) or "tied" (b_in = b_D, SAE and crosscoder only).
    `path`: "auto" carries sparse codes where that is cheaper; "reference" is plain dense autograd. `selection`: "bf16"
    lets a bfloat16 product propose and exact float32 values decide, proven row by row (docs/adr/0009); `fell_back` is
    the last batch's share of rows that were computed in full instead.
    Source: Tang et al. 2025, 2.3; biases and W_skip are practice, absent from the paper.
    """

    def __init__(self, layout: Layout, activation: Activation, pre_bias: PreBias = "none") -> None:
        super().__init__()
        n_q = layout.n_q
        check(n_q >= 1, f"n_q={n_q}; at least one latent is needed")
        k = getattr(activation, "k", None)
        check(k is None or k <= n_q, f"k={k} is larger than n_q={n_q}; lower k or raise n_q")
        shared = layout.p_widths == layout.r_widths and layout.shared
        check(pre_bias != "tied" or shared, "pre_bias='tied' needs x_p and x_r in one space; use 'free' or 'none'")
        self.layout, self.activation, self.pre_bias, self.path = layout, activation, pre_bias, "auto"
        self.selection: Selection = "fp32"
        self.fell_back = 0.0
        self.encoder = BlockMap(layout.encoder, n_q, layout.n_p)
        self.decoder = BlockMap(layout.decoder, n_q, layout.n_r)
        self.b_E = nn.Parameter(torch.zeros(n_q))
        self.b_D = nn.Parameter(torch.zeros(layout.n_r))
        self._b_in = nn.Parameter(torch.zeros(layout.n_p)) if pre_bias == "free" else None
        self.W_skip = nn.Parameter(torch.zeros(layout.n_r, layout.n_p)) if layout.skip else None
        self.act = nn.ParameterDict({name: nn.Parameter(v) for name, v in activation.parameters(n_q).items()})
        self._state_names = tuple(activation.buffers())
        for name, value in activation.buffers().items():
            self.register_buffer(f"act_{name}", value)

    # The paper's names ---------------------------------------------------------------------------------

    @property
    def n_q(self) -> int:
        """Number of latents."""
        return self.layout.n_q

    @property
    def W_E(self) -> Float[Tensor, "n_q n_p"]:
        """Encoder."""
        return self.encoder.dense()

    @property
    def W_D(self) -> Float[Tensor, "n_r n_q"]:
        """Decoder; its columns are the learned features."""
        return self.decoder.dense().T

    @property
    def b_in(self) -> Float[Tensor, " n_p"]:
        """What is subtracted from x_p before encoding."""
        if self.pre_bias == "tied":
            return self.b_D
        return self.b_D.new_zeros(self.layout.n_p) if self._b_in is None else self._b_in

    def decoder_norm(self) -> Float[Tensor, " n_q"]:
        """||W_D[:, j]|| over all targets; differentiable (0 at a zero column)."""
        return self.decoder.norms()

    def source_norms(self) -> Float[Tensor, "m n_q"]:
        """||W_D[:, j]|| within each target source."""
        squares = [self.decoder.squared_norms(columns) for columns in self.layout.r_slices]
        return torch.stack(squares).clamp(min=1e-30).sqrt()

    # Encoding ------------------------------------------------------------------------------------------

    def activation_state(self) -> dict[str, Tensor]:
        """The activation's buffers by name."""
        return {name: getattr(self, f"act_{name}") for name in self._state_names}

    def _laid(self, code: Code | None, norms: Tensor | None, name: str) -> Tensor:
        """What an activation calls `name`, laid along a code (None: every cell)."""
        if name in self._state_names:
            return torch.as_tensor(getattr(self, f"act_{name}"))
        if name == "decoder_norm":
            assert norms is not None
            vector = norms
        else:
            vector = self.b_E if name == "b_E" else self.act[name]
        return vector[None, :] if code is None else code.along(vector)

    def along(self, code: Code) -> At:
        """`at(name)` for an activation's functions, laid along a code."""
        return partial(self._laid, code, self.decoder_norm() if self.activation.needs_decoder_norm() else None)

    def _at(self) -> Callable[[Positions | None], At]:
        """The same for cells without values (None: every cell), without gradient; the norms are taken once."""
        norms = self.decoder_norm() if self.activation.needs_decoder_norm() else None
        return lambda at: partial(self._laid, None if at is None else SparseCode(at, self.b_E[:0]), norms)

    def _select(
        self, z: Tensor, requests: Sequence[Request], dead: Tensor | None, context: Context
    ) -> tuple[Positions | Bool[Tensor, "batch n_q"], Tensor, dict[Request, Positions]]:
        """Which cells the code and each request carry; nothing here has a gradient."""
        norms = self.decoder_norm() if self.activation.needs_decoder_norm() else None
        at = partial(self._laid, None, norms)
        score = self.activation.score(z, at)
        chosen = self.activation.select(score, at, context)
        extra: dict[Request, Positions] = {}
        for request in requests:
            if isinstance(request, Top):
                among = (
                    (torch.zeros(self.n_q, dtype=torch.bool, device=z.device) if dead is None else dead)
                    if request.dead
                    else None
                )
                extra[request] = top_of_row(score, request.k, among)
        return chosen, score, extra

    def forward(
        self,
        x_p: Float[Tensor, "batch n_p"],
        requests: Sequence[Request] = (),
        dead: Bool[Tensor, " n_q"] | None = None,
        context: Context | None = None,
    ) -> Forward:
        """Encode and select; the reconstruction is decoded when it is read.

        `requests` are extra selections that terms need; `dead` marks what `Top(dead=True)` ranks. Raises: ShapeError.
        """
        check(
            x_p.ndim == 2 and x_p.shape[1] == self.layout.n_p,
            f"x_p has shape {tuple(x_p.shape)}; this model reads [batch, n_p={self.layout.n_p}]",
            ShapeError,
        )
        context = context or Context(training=self.training)
        encode = self._encode_reference if self.path == "reference" else self._encode
        return Forward(self, x_p, *encode(x_p, requests, dead, context), torch.is_grad_enabled())

    def _encode_reference(
        self, x_p: Tensor, requests: Sequence[Request], dead: Tensor | None, context: Context
    ) -> tuple[Code, Code, dict[Request, Code]]:
        z = reference.read(x_p - self.b_in, self.b_E, self.layout.encoder, list(self.encoder.weights))
        with torch.no_grad():
            chosen, score, extra = self._select(z.detach(), requests, dead, context)
            mask = chosen.mask() if isinstance(chosen, Positions) else chosen
            if context.training:
                self.activation.observe(score[mask], self.activation_state())
        return self._dense_codes(z, mask, {r: p.mask() for r, p in extra.items()}, requests)

    def _dense_codes(
        self, z: Tensor, mask: Tensor | None, extra: dict[Request, Tensor], requests: Sequence[Request]
    ) -> tuple[Code, Code, dict[Request, Code]]:
        cells, plain = DenseCode(z), self.path == "reference"
        at = self.along(cells)
        value, sums = (self.activation.value(z, at), None) if plain else self.activation.summed(z, at)
        if mask is not None and not self.activation.vanishes:
            value, sums = torch.where(mask, value, torch.zeros_like(value)), None
        codes: dict[Request, Code] = {r: DenseCode(torch.where(m, z, torch.zeros_like(z))) for r, m in extra.items()}
        return DenseCode(value, sums), cells, codes | {r: cells for r in requests if isinstance(r, Every)}

    def _encode(
        self, x_p: Tensor, requests: Sequence[Request], dead: Tensor | None, context: Context
    ) -> tuple[Code, Code, dict[Request, Code]]:
        blocks, weights = self.layout.encoder, list(self.encoder.weights)
        every, tops = any(isinstance(r, Every) for r in requests), [r for r in requests if isinstance(r, Top)]
        with torch.no_grad():
            x = x_p if self.pre_bias == "none" else x_p - self.b_in
            halved = self._halved(x) if self.selection == "bf16" and not every else None
            encoder = Encoder(
                self.activation, blocks, weights, self.b_E, self._at(), context, halved, self.selection == "bf16"
            )
            picked = Picked(None, {}, encoder.every(x)) if every else encoder.pick(x, tops, dead)
            self.fell_back = halved.fell_back / max(halved.rows, 1) if halved else 0.0
            if context.training and self._state_names and picked.code is not None:
                score = self.activation.score(picked.code.z, encoder.at(picked.code.at))
                self.activation.observe(score, self.activation_state())
        if x_p.requires_grad:
            x = x_p if self.pre_bias == "none" else x_p - self.b_in.detach()
        if picked.z is not None and picked.dense and self.activation.vanishes and not tops and not self._state_names:
            (z,) = sparse.read_cells([], [], picked.z, x, self.b_in, self.b_E, blocks, weights)
            return self._dense_codes(z, None, {}, requests)  # nothing to rank, and zeros come by themselves
        if picked.z is not None:
            return self._encode_dense(picked.z, x, tops, requests, dead, context)
        assert picked.code is not None
        chosen = [picked.extra[r] for r in tops] + [picked.code]
        ats, values = [c.at for c in chosen], [c.z for c in chosen]
        *read, z = sparse.read_cells(values, ats, None, x, self.b_in, self.b_E, blocks, weights)
        codes: dict[Request, Code] = {r: SparseCode(c.at, v) for r, c, v in zip(tops, chosen, read, strict=False)}
        main = SparseCode(picked.code.at, z)
        return main.with_values(self.activation.value(z, self.along(main))), main, codes

    def _halved(self, x: Tensor) -> Halved | None:
        """The encoder in both precisions, where the machine and the activation allow it."""
        weight = self.encoder.weights[0]
        fits = self.encoder.is_whole and self.activation.scores_z() and self.activation.has_rule
        return Halved(weight, self.b_E) if fits and usable(weight, self.b_E, x) and has_bfloat16() else None

    def _encode_dense(
        self,
        z: Tensor,
        x: Tensor,
        tops: Sequence[Top],
        requests: Sequence[Request],
        dead: Tensor | None,
        context: Context,
    ) -> tuple[Code, Code, dict[Request, Code]]:
        """From z of every cell; whatever is sparse in itself stays sparse."""
        blocks, weights, many = self.layout.encoder, list(self.encoder.weights), DENSE_ABOVE * z.numel()
        with torch.no_grad():
            selected, score, extra = self._select(z, requests, dead, context)
            if not isinstance(selected, Positions) and int(torch.count_nonzero(selected)) <= many:
                selected = Positions.from_mask(selected)
            if context.training and self._state_names:
                here = (selected.row, selected.col) if isinstance(selected, Positions) else selected
                self.activation.observe(score[here], self.activation_state())
            chosen = {r: Chosen.of(at, z) for r, at in extra.items() if at.nnz <= many}
            code = Chosen.of(selected, z) if isinstance(selected, Positions) and selected.nnz <= many else None
        parts = [*chosen.values()] + ([] if code is None else [code])
        *read, z = sparse.read_cells(
            [c.z for c in parts], [c.at for c in parts], z, x, self.b_in, self.b_E, blocks, weights
        )
        codes: dict[Request, Code] = {r: SparseCode(c.at, v) for (r, c), v in zip(chosen.items(), read, strict=False)}
        masks = {r: at.mask() for r, at in extra.items() if r not in chosen}
        if code is None:
            mask = selected.mask() if isinstance(selected, Positions) else selected
            values, cells, more = self._dense_codes(z, mask, masks, requests)
            return values, cells, codes | more
        codes |= {r: DenseCode(torch.where(m, z, torch.zeros_like(z))) for r, m in masks.items()}
        codes |= {r: DenseCode(z) for r in requests if isinstance(r, Every)}
        main = SparseCode(code.at, read[-1])
        return main.with_values(self.activation.value(main.values, self.along(main))), main, codes

    def encode(self, x_p: Float[Tensor, "batch n_p"]) -> Code:
        """x_q = sigma(W_E (x_p - b_in) + b_E)."""
        return self.forward(x_p).code

    # Decoding ------------------------------------------------------------------------------------------

    def write(self, code: Code, weights: Sequence[Tensor] | None = None) -> Float[Tensor, "batch n_r"]:
        """W_D x_q, without bias or skip; with other decoder weights where given."""
        blocks, width, weights = self.layout.decoder, self.layout.n_r, weights or list(self.decoder.weights)
        if isinstance(code, SparseCode):
            return sparse.write_cells(code.at, code.values, width, blocks, weights)
        write = reference.write if self.path == "reference" else dense.write
        return write(code.values, width, blocks, weights)

    def decode(self, code: Code, x_p: Float[Tensor, "batch n_p"] | None = None) -> Float[Tensor, "batch n_r"]:
        """x_r_hat = W_D x_q + b_D + W_skip x_p."""
        return self.write(code).add_(self.offset(x_p))  # in place: one array less to fetch

    def offset(self, x_p: Float[Tensor, "batch n_p"] | None = None) -> Tensor:
        """b_D + W_skip x_p: what the reconstruction is without any latent; [n_r] or [batch, n_r]."""
        if self.W_skip is None:
            return self.b_D
        check(x_p is not None, "a skip transcoder's output needs x_p: decode(code, x_p)")
        assert x_p is not None
        return self.b_D + x_p @ self.W_skip.T
