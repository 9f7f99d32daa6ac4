"""SDL: the one model. x_r_hat = W_D sigma(W_E (x_p - b_in) + b_E) + b_D + W_skip x_p."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from monosem.base.card import card
from monosem.base.errors import ArgumentError, DataError, RefusedError, ShapeError, check
from monosem.base.group import ALONE, Group
from monosem.base.guard import shown
from monosem.base.once import Once
from monosem.base.selection import Request
from monosem.base.sparse import Code, DenseCode, SparseCode, spread, with_leading
from monosem.core.activations import Activation, At, Context
from monosem.core.blockmap import BlockMap
from monosem.core.dictionaries import Dictionary, Free
from monosem.core.encoders import Affine, Encoder, fitting
from monosem.core.encoding import encode, laid, scores
from monosem.core.pairs import Layout, check_finite
from monosem.core.shards import of_all
from monosem.kernels.ops import write

PreBias = Literal["none", "free", "tied"]
Selection = Literal["fp32", "bf16"]
AFFINE, FREE = Affine(), Free()


def _transformed(x: Tensor) -> bool:
    """Whether torch.func wraps a tensor, in vmap or grad."""
    wrapped = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", None)
    return wrapped is not None and bool(wrapped(x))


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward pass: the code, its pre-activations, what terms requested, and the reconstruction when it is read.

    `cells` lie along `code` and hold z: of every cell where the code is dense, of the selected cells where it is sparse
    (any other cell has a zero latent and a closed gate). `extra[request]` is a code of z.
    """

    model: "SDL"
    x_p: Float[Tensor, "batch n_p"]
    code: Code
    cells: Code
    extra: dict[Request, Code]
    graph: bool

    @Once
    def x_r_hat(self) -> Float[Tensor, "*batch n_r"]:
        """The reconstruction, differentiable if the pass was; read it before the weights move."""
        with torch.set_grad_enabled(self.graph):
            return self.model.decode(self.code, self.x_p)


class SDL(nn.Module):
    """Sparse dictionary learning, every flavour a value.

    Shapes: W_E [n_q, n_p], W_D [n_r, n_q], b_E [n_q], b_D [n_r], b_in [n_p], W_skip [n_r, n_p].
    `pre_bias`: "none" (b_in = 0), "free" (own parameter) or "tied" (b_in = b_D, SAE and crosscoder only).
    `encoder_kind` and `dictionary`: how x becomes z, and what W_D is made of; affine and free ones are sparse.
    `path`: "auto" carries sparse codes where that is cheaper; "reference" is plain dense autograd. `selection`: "bf16"
    lets a bfloat16 product propose and exact float32 values decide, proven row by row (docs/adr/0010); `fell_back` is
    the last batch's share of rows that were computed in full instead. `group`: the processes that share the latents of
    the `whole` layout, of which it then has those from `first` (core.shards); what it decodes is of all of them, on the
    `columns` of x_r that it has: all, unless the group shares by targets.
    Source: Tang et al. 2025, 2.3; biases and W_skip are practice, absent from the paper.
    """

    def __init__(
        self,
        layout: Layout,
        activation: Activation,
        pre_bias: PreBias = "none",
        encoder: Encoder = AFFINE,
        dictionary: Dictionary = FREE,
    ) -> None:
        super().__init__()
        n_q, k = layout.n_q, getattr(activation, "k", None)
        check(n_q >= 1, f"n_q={n_q}; at least one latent is needed")
        check(k is None or k <= n_q, f"k={k} is larger than n_q={n_q}; lower k or raise n_q")
        shared = layout.p_widths == layout.r_widths and layout.shared
        check(pre_bias != "tied" or shared, "pre_bias='tied' needs x_p and x_r in one space; use 'free' or 'none'")
        self.layout, self.activation, self.pre_bias, self.path = layout, activation, pre_bias, "auto"
        self.encoder_kind, self.dictionary = fitting(encoder, layout), dictionary
        self.selection: Selection = "fp32"
        self.fell_back: float | Tensor = 0.0
        self.group, self.whole, self.first, self.columns = ALONE, layout, 0, range(layout.n_r)
        self.encoder = BlockMap(layout.encoder, n_q, layout.n_p)
        self.decoder = dictionary.decoder(layout, self.encoder)
        self.b_E = nn.Parameter(torch.zeros(n_q))
        self.b_D = nn.Parameter(torch.zeros(layout.n_r))
        self._b_in = nn.Parameter(torch.zeros(layout.n_p)) if pre_bias == "free" else None
        self.W_skip = nn.Parameter(torch.zeros(layout.n_r, layout.n_p)) if layout.skip else None
        self.act = nn.ParameterDict({name: nn.Parameter(v) for name, v in activation.parameters(n_q).items()})
        self.enc = nn.ParameterDict({name: nn.Parameter(v) for name, v in encoder.parameters(layout).items()})
        self._state_names = tuple(activation.buffers(n_q))
        for name, value in activation.buffers(n_q).items():
            self.register_buffer(f"act_{name}", value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.activation}, {self.sizes})"

    def _repr_html_(self) -> str:
        layout, silent = self.layout, int((self.decoder.squared_norms() == 0).sum())
        facts = {"sizes": f"{self.sizes} (n_p, n_q, n_r)", "activation": self.activation, "b_in": self.pre_bias}
        if len(layout.p_widths) + len(layout.r_widths) > 2:
            facts["sources"] = f"{layout.p_widths} -> {layout.r_widths}"
        return card(
            type(self).__name__,
            facts
            | {"parameters": f"{sum(p.numel() for p in self.parameters()):,}"}
            | ({"zero decoder columns": silent} if silent else {}),
        )

    @property
    def sizes(self) -> str:
        """n_p -> n_q -> n_r, to read."""
        return f"{self.layout.n_p:,} -> {self.n_q:,} -> {self.layout.n_r:,}"

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

    @property
    def plain(self) -> bool:
        """Whether codes are dense and gradients autograd's: on the reference path, or where the kinds ask for it."""
        return self.path == "reference" or not (self.encoder_kind.affine and self.dictionary.free)

    @property
    def targets(self) -> Group:
        """The processes that share the coordinates of x_r: what is summed over these is summed over them."""
        return self.group if self.group.by == "targets" else ALONE

    def column_norms(self) -> Float[Tensor, " latents"]:
        """||W_D[:, j]|| over all targets, of every latent of which W_D has something here; 0 at a zero column."""
        if self.targets.size == 1:
            return self.decoder.norms()
        return self.targets.sum(self.decoder.squared_norms()).clamp(min=1e-30).sqrt()

    def decoder_norm(self) -> Float[Tensor, " n_q"]:
        """||W_D[:, j]|| over all targets; differentiable (0 at a zero column)."""
        return self._own(self.column_norms())

    def source_norms(self) -> Float[Tensor, "m n_q"]:
        """||W_D[:, j]|| within each target source."""
        squares = [self.decoder.squared_norms(columns) for columns in self.layout.r_slices]
        return self._own(self.targets.sum(torch.stack(squares)).clamp(min=1e-30).sqrt())

    def _own(self, of_decoder: Float[Tensor, "*m latents"]) -> Float[Tensor, "*m n_q"]:
        """Of numbers for the latents of W_D here, those of the latents that are encoded here."""
        if self.targets.size == 1:
            return of_decoder
        return self.targets.shared(of_decoder)[..., self.first : self.first + self.n_q]

    def activation_state(self) -> dict[str, Tensor]:
        """The activation's buffers by name."""
        return {name: getattr(self, f"act_{name}") for name in self._state_names}

    def along(self, code: Code) -> At:
        """`at(name)` for an activation's functions, laid along a code."""
        return partial(laid, self, code, self.decoder_norm() if self.activation.needs_decoder_norm() else None)

    def inputs(self, x_p: Float[Tensor, "batch n_p"]) -> Float[Tensor, "batch n_p"]:
        """What the encoder reads of the rows: the rows."""
        return x_p

    def forward(
        self,
        x_p: Float[Tensor, "*batch n_p"],
        requests: Sequence[Request] = (),
        dead: Bool[Tensor, " n_q"] | None = None,
        context: Context | None = None,
    ) -> Forward:
        """Encode and select; the reconstruction is decoded when it is read.

        `x_p` may have any leading axes ([batch, sequence, n_p], as hooks give it): the code and the reconstruction have
        them too. `requests` are extra selections that terms need; `dead` marks what TopK(among="dead") ranks.
        Raises: ShapeError; DataError for what is no tensor of real numbers.
        """
        if not (isinstance(requests, Sequence) and isinstance(context, Context | None)):
            given = f"requests={shown(requests)}, context={shown(context)}"
            raise ArgumentError(f"{given}; give Requests in a tuple, and a Context or None")
        context, leading = context or Context(training=self.training), _leading(x_p)
        x_p = _as_rows(x_p, "x_p", "n_p", self.layout.n_p)
        self._check_rows(x_p, context)
        code, cells, extra = encode(self, self.inputs(x_p), requests, dead, context)
        return Forward(self, x_p, with_leading(code, leading), cells, extra, torch.is_grad_enabled())

    def _check_rows(self, x_p: Tensor, context: Context) -> None:
        """Rows of training are checked where they enter, in `fit`."""
        if torch.compiler.is_compiling():
            return
        mine = self.b_E
        check(x_p.device == mine.device, f"x_p is on {x_p.device}, the model on {mine.device}; move one to the other")
        check(not x_p.is_meta, "the meta device has no numbers to select by; load the model on 'cpu' or 'cuda'")
        same = x_p.dtype == mine.dtype or torch.is_autocast_enabled(x_p.device.type)
        check(same, f"x_p is {x_p.dtype}, the model {mine.dtype}; give it x_p.to({mine.dtype})")
        if _transformed(x_p):
            cells = "torch.func transforms do not reach into a selection of cells; give the model the batch itself"
            check(self.plain, f"{cells} and use torch.autograd, or set path='reference'", RefusedError)
        elif not context.training:
            check_finite("x_p", x_p)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SDL":
        """What .to(), .half() and .cuda() do; the activation's buffers keep their dtype: a threshold has its digits."""
        kept = self.activation_state()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            setattr(self, f"act_{name}", value.to(self.b_E.device))
        return self

    @torch.no_grad()
    def observe(self, out: Forward) -> None:
        """Let the activation learn from the scores that passed in a training batch; a forward pass keeps nothing."""
        state = self.activation_state()
        if state:
            score = self.activation.score(out.cells.values, self.along(out.cells))
            self.activation.observe_cells(out.code, score, state, self.group)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set what the activation keeps for inference from rows, by the weights as they are (BatchTopK: its threshold).

        Without a state to set, the rows are not read.
        """
        if self.activation.calibration(1) is None:
            return
        passed, rows = [], 0
        for x_p in batches:
            rule = self.activation.calibration(len(x_p))
            assert rule is not None
            passed.append(scores(self, self.inputs(x_p), rule))
            rows += len(x_p)
        check(rows > 0, "no rows to calibrate on; give at least one")
        self.activation.calibrate(passed, rows, self.activation_state())

    def encode(self, x_p: Float[Tensor, "*batch n_p"]) -> Code:
        """x_q = sigma(W_E (x_p - b_in) + b_E); `to_dense()` of it is [*batch, n_q]."""
        return self.forward(x_p).code

    def write(self, code: Code, weights: Sequence[Tensor] | None = None) -> Float[Tensor, "batch n_r"]:
        """W_D x_q, without bias or skip; with other decoder weights where given. Raises: ShapeError.

        Over this process's latents, still to be `summed` over the others'; by targets over all latents, of a code of
        this process's or of `whole_code`.
        """
        same = code.n_q in (self.n_q, self.decoder.n_q)
        check(
            same, f"the code has n_q={code.n_q} latents, the model {self.n_q}; decode codes of this model", ShapeError
        )
        code = code if code.n_q == self.decoder.n_q else self.whole_code(code)
        return write(code, self.layout.n_r, self.layout.decoder, weights or list(self.decoder.weights), self.plain)

    def whole_code(self, code: Code) -> Code:
        """By targets the code of all latents, alike in every process; else the code."""
        return of_all(code, self)

    def summed(self, written: Tensor) -> Tensor:
        """What the latents of all processes write, from what `write` gives."""
        return self.group.sum(written) if self.targets.size == 1 else written

    def decode(
        self, code: Code | Float[Tensor, "*batch n_q"], x_p: Float[Tensor, "*rows n_p"] | None = None
    ) -> Float[Tensor, "*batch n_r"]:
        """x_r_hat = W_D x_q + b_D + W_skip x_p, of a code or of latents in a dense tensor.

        Raises: ShapeError for a code that is not one of this model.
        """
        if not isinstance(code, SparseCode | DenseCode):
            leading, rows = _leading(code), _as_rows(code, "latents", "n_q", self.n_q)
            code = with_leading(DenseCode(rows), leading)
        if isinstance(code, SparseCode):
            code.at.verify()
            have, cells = code.values.numel(), code.at.nnz
            check(have == cells, f"the code has {have} values for {cells} cells; give one value per cell", ShapeError)
        if x_p is not None:
            x_p = _as_rows(x_p, "x_p", "n_p", self.layout.n_p)
        return spread(code, self._decode(code, x_p))

    def _decode(self, code: Code, x_p: Float[Tensor, "batch n_p"] | None) -> Float[Tensor, "batch n_r"]:
        return self.summed(self.write(code)).add_(self.offset(x_p))  # in place: one array less to fetch

    def offset(self, x_p: Float[Tensor, "batch n_p"] | None = None) -> Tensor:
        """b_D + W_skip x_p: what the reconstruction is without any latent; [n_r] or [batch, n_r]."""
        if self.W_skip is None:
            return self.b_D
        check(x_p is not None, "a skip transcoder's output needs x_p: decode(code, x_p)")
        assert x_p is not None
        return self.b_D + x_p @ self.W_skip.T


def _leading(x: Tensor) -> tuple[int, ...] | None:
    """The axes before the last, where they are not one axis of rows."""
    return tuple(x.shape[:-1]) if isinstance(x, Tensor) and x.ndim != 2 else None


def _as_rows(x: Tensor, name: str, axis: str, width: int) -> Float[Tensor, "rows width"]:
    """A tensor as rows of a model. Raises: DataError, ShapeError for what it does not read."""
    check(isinstance(x, Tensor), f"{name} is {type(x).__name__}; give a tensor, as torch.as_tensor({name})", DataError)
    check(x.is_floating_point(), f"{name} holds {x.dtype}; give real numbers, as {name}.float()", DataError)
    right = x.ndim >= 1 and x.shape[-1] == width
    check(right, f"{name} has shape {tuple(x.shape)}; this model reads [..., {axis}={width}]", ShapeError)
    return x if x.ndim == 2 else x.reshape(-1, width)
