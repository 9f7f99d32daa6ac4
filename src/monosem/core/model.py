"""SDL: the one model. x_r_hat = W_D sigma(W_E (x_p - b_in) + b_E) + b_D + W_skip x_p."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from monosem.base.errors import ShapeError, check
from monosem.base.sparse import Code, DenseCode, Positions, SparseCode
from monosem.core.activations import Activation, At, Context
from monosem.core.blockmap import BlockMap
from monosem.core.pairs import Layout
from monosem.core.selection import Every, Request, Top, top_of_row
from monosem.kernels import reference, sparse

__all__ = ["DENSE_ABOVE", "SDL", "Forward", "PreBias"]

PreBias = Literal["none", "free", "tied"]

DENSE_ABOVE = 1 / 16
"""Share of cells above which a code is dense: matrix products then cost no more than gathered rows (docs/adr/0003)."""


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward pass: the reconstruction, the code, its pre-activations, and what terms requested.

    `cells` lie along `code` and hold z: of every cell where the code is dense, of the carried cells where it
    is sparse (any other cell has a zero latent and a closed gate). `extra[request]` is a code of z.
    """

    x_r_hat: Float[Tensor, "batch n_r"]
    code: Code
    cells: Code
    extra: dict[Request, Code]


class SDL(nn.Module):
    """Sparse dictionary learning, every flavour a value.

    Shapes: W_E [n_q, n_p], W_D [n_r, n_q], b_E [n_q], b_D [n_r], b_in [n_p], W_skip [n_r, n_p].
    `pre_bias`: "none" (b_in = 0), "free" (own parameter) or "tied" (b_in = b_D, SAE and crosscoder only).
    `path`: "auto" carries sparse codes where that is cheaper; "reference" is plain dense autograd.
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
        return self.decoder.squared_norms().clamp(min=1e-30).sqrt()

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
        """Encode, select, decode.

        `requests` are extra selections that loss terms need; `dead` marks the latents that `Top(dead=True)`
        ranks. Raises: ShapeError when x_p has not n_p columns.
        """
        check(
            x_p.ndim == 2 and x_p.shape[1] == self.layout.n_p,
            f"x_p has shape {tuple(x_p.shape)}; this model reads [batch, n_p={self.layout.n_p}]",
            ShapeError,
        )
        context = context or Context(training=self.training)
        encode = self._encode_reference if self.path == "reference" else self._encode
        code, cells, extra = encode(x_p, requests, dead, context)
        return Forward(self.decode(code, x_p), code, cells, extra)

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
        self, z: Tensor, mask: Tensor, extra: dict[Request, Tensor], requests: Sequence[Request]
    ) -> tuple[Code, Code, dict[Request, Code]]:
        cells = DenseCode(z)
        value = self.activation.value(z, self.along(cells))
        code = DenseCode(value if self.activation.vanishes else torch.where(mask, value, torch.zeros_like(value)))
        codes: dict[Request, Code] = {r: DenseCode(torch.where(m, z, torch.zeros_like(z))) for r, m in extra.items()}
        codes |= {r: DenseCode(z) for r in requests if isinstance(r, Every)}
        return code, cells, codes

    def _encode(
        self, x_p: Tensor, requests: Sequence[Request], dead: Tensor | None, context: Context
    ) -> tuple[Code, Code, dict[Request, Code]]:
        blocks, weights = self.layout.encoder, list(self.encoder.weights)
        with torch.no_grad():
            b_in = None if self.pre_bias == "none" else self.b_in
        x = x_p if b_in is None else x_p - b_in.detach()
        with torch.no_grad():
            z = reference.read(x, self.b_E, blocks, weights)
            chosen, score, extra = self._select(z, requests, dead, context)
            cells = chosen.nnz if isinstance(chosen, Positions) else int(torch.count_nonzero(chosen))
            dense_code = cells > DENSE_ABOVE * z.numel()
            many = {r: at for r, at in extra.items() if at.nnz > DENSE_ABOVE * z.numel()}
            extra = {r: at for r, at in extra.items() if r not in many}
            dense = dense_code or bool(many) or any(isinstance(r, Every) for r in requests)
            if not dense_code and not isinstance(chosen, Positions):
                chosen = Positions.from_mask(chosen)
            if context.training and self._state_names:
                passed = score[chosen.row, chosen.col] if isinstance(chosen, Positions) else score[chosen]
                self.activation.observe(passed, self.activation_state())
        ats = list(extra.values()) + ([chosen] if not dense_code and isinstance(chosen, Positions) else [])
        read = sparse.read_cells(z, ats, dense, x, self.b_in, self.b_E, blocks, weights)
        z = read[-1] if dense else z
        codes: dict[Request, Code] = {r: SparseCode(at, v) for (r, at), v in zip(extra.items(), read, strict=False)}
        masks = {r: at.mask() for r, at in many.items()}
        if dense_code:
            mask = chosen.mask() if isinstance(chosen, Positions) else chosen
            dense_main, dense_cells, more = self._dense_codes(z, mask, masks, requests)
            return dense_main, dense_cells, codes | more
        codes |= {r: DenseCode(torch.where(m, z, torch.zeros_like(z))) for r, m in masks.items()}
        codes |= {r: DenseCode(z) for r in requests if isinstance(r, Every)}
        main = SparseCode(ats[-1], read[len(extra)])
        return main.with_values(self.activation.value(main.values, self.along(main))), main, codes

    def encode(self, x_p: Float[Tensor, "batch n_p"]) -> Code:
        """x_q = sigma(W_E (x_p - b_in) + b_E)."""
        return self.forward(x_p).code

    # Decoding ------------------------------------------------------------------------------------------

    def write(self, code: Code, weights: Sequence[Tensor] | None = None) -> Float[Tensor, "batch n_r"]:
        """W_D x_q, without bias or skip; with other decoder weights where given (detached ones, say)."""
        blocks, width = self.layout.decoder, self.layout.n_r
        weights = list(self.decoder.weights) if weights is None else weights
        if isinstance(code, SparseCode):
            return sparse.write_cells(code.at, code.values, width, blocks, weights)
        return reference.write(code.values, width, blocks, weights)

    def decode(self, code: Code, x_p: Float[Tensor, "batch n_p"] | None = None) -> Float[Tensor, "batch n_r"]:
        """x_r_hat = W_D x_q + b_D + W_skip x_p."""
        return self.offset(x_p) + self.write(code)

    def offset(self, x_p: Float[Tensor, "batch n_p"] | None = None) -> Tensor:
        """b_D + W_skip x_p: what the reconstruction is without any latent; [n_r] or [batch, n_r]."""
        if self.W_skip is None:
            return self.b_D
        check(x_p is not None, "a skip transcoder's output needs x_p: decode(code, x_p)")
        assert x_p is not None
        return self.b_D + x_p @ self.W_skip.T
