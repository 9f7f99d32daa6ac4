"""A model as the object that SAEBench evaluates: its attributes and methods around an SDL."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from monosem.base.errors import RefusedError, check
from monosem.base.sparse import DenseCode
from monosem.core.io import activation_to_text
from monosem.core.model import SDL
from monosem.core.rownorm import RowNormSDL
from monosem.interop.build import kind_of


@dataclass
class _BenchConfig:
    """What SAEBench reads from `sae.cfg`; it sets some fields itself."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    architecture: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    context_size: int | None = None
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = False
    finetuning_scaling_factor: bool = False
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    prepend_bos: bool = True
    normalize_activations: str = "none"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -100_000
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


class SAEBenchModel(nn.Module):
    """An SAE with SAEBench's interface: W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec, encode, decode.

    Inputs may have any number of leading axes. Columns of W_D should have norm 1 (SAEBench warns otherwise):
    see `interop.fold_decoder_norm`.
    Raises: RefusedError for anything but an SAE, and for per-row normalisation, whose decoder needs the input.
    """

    hook_z_reshaping_mode = False

    def __init__(self, model: SDL, model_name: str, hook_layer: int, hook_name: str | None = None) -> None:
        super().__init__()
        kind = kind_of(model)
        check(kind == "sae", f"SAEBench evaluates SAEs, this is a {kind}", RefusedError)
        check(
            not isinstance(model, RowNormSDL),
            "SAEBench decodes without the input, whose units this model needs",
            RefusedError,
        )
        check(model.W_skip is None, "SAEBench decodes without the input, which W_skip needs", RefusedError)
        self.model = model.eval()
        self.cfg = _BenchConfig(
            model_name,
            model.layout.n_p,
            model.n_q,
            hook_layer,
            hook_name or f"blocks.{hook_layer}.hook_resid_post",
            architecture=activation_to_text(model.activation).partition("(")[0],
            dtype=str(model.b_E.dtype).removeprefix("torch."),
            device=str(model.b_E.device),
            apply_b_dec_to_input=model.pre_bias == "tied",
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.b_E.device

    @property
    def dtype(self) -> torch.dtype:
        """Their type."""
        return self.model.b_E.dtype

    @property
    def W_enc(self) -> Tensor:
        """[d_in, d_sae]."""
        return self.model.W_E.T

    @property
    def W_dec(self) -> Tensor:
        """[d_sae, d_in]."""
        return self.model.W_D.T

    @property
    def b_enc(self) -> Tensor:
        """[d_sae]."""
        return self.model.b_E

    @property
    def b_dec(self) -> Tensor:
        """[d_in]."""
        return self.model.b_D

    @property
    def b_mag(self) -> Tensor:
        """[d_sae], of a gated SAE only, as SAEBench asks for it."""
        if "b_mag" not in self.model.act:
            raise AttributeError("only a gated SAE has b_mag")
        value: Tensor = self.model.act["b_mag"]
        return value

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., d_sae] of inputs [..., d_in]."""
        rows = x.to(self.dtype).reshape(-1, x.shape[-1])
        return self.model.encode(rows).to_dense().reshape(*x.shape[:-1], self.model.n_q)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Reconstructions [..., d_in] of latents [..., d_sae]."""
        rows = feature_acts.to(self.dtype).reshape(-1, feature_acts.shape[-1])
        return self.model.decode(DenseCode(rows)).reshape(*feature_acts.shape[:-1], self.model.layout.n_r)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of inputs."""
        return self.decode(self.encode(x))

    def to(self, *args: Any, **kwargs: Any) -> "SAEBenchModel":
        """Move or cast, and keep `cfg` in step."""
        super().to(*args, **kwargs)
        self.cfg.device, self.cfg.dtype = str(self.device), str(self.dtype).removeprefix("torch.")
        return self

    def turn_off_forward_pass_hook_z_reshaping(self) -> None:
        """Inputs are flat already."""

    def turn_on_forward_pass_hook_z_reshaping(self) -> None:
        """Refuse: flatten [heads, d_head] before."""
        raise RefusedError("this model reads flat rows; flatten [heads, d_head] before encoding")

    def check_decoder_norms(self) -> bool:
        """Whether every decoder column has norm 1."""
        tolerance = 1e-2 if self.dtype in (torch.bfloat16, torch.float16) else 1e-5
        return bool((self.model.decoder.squared_norms().sqrt() - 1).abs().max() <= tolerance)
