"""What is claimed about each format: one row per format, direction and architecture, and who proves it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """A claim. `peer` is whose released package made (`theirs`) or read (`ours`, `notes`) the file; None: nobody's."""

    format: str
    direction: Literal["read", "write"]
    architecture: str
    case: str
    which: Literal["theirs", "ours", "notes"]
    peer: str | None

    def __str__(self) -> str:
        return f"{self.format}-{self.direction}-{self.which}-{self.case}" + (f"-by-{self.peer}" if self.peer else "")


def _rows(format: str, peer: str, theirs: str = "", ours: str = "") -> list[Row]:
    read = [Row(format, "read", case.replace("-", ", "), case, "theirs", peer) for case in theirs.split()]
    return read + [Row(format, "write", case.replace("-", ", "), case, "ours", peer) for case in ours.split()]


def _notes(format: str, peer: str | None, cases: str) -> list[Row]:
    return [Row(format, "read", case.replace("-", ", "), case, "notes", peer) for case in cases.split()]


ROWS: tuple[Row, ...] = (
    *_rows(
        "saelens",
        "saelens",
        "standard standard-raw standard-layer_norm standard-constant_norm standard-float64 standard-bfloat16 "
        "topk topk-rescale topk-layer_norm abstopk abstopk-rescale gated gated-raw jumprelu jumprelu-raw "
        "transcoder skip_transcoder jumprelu_transcoder jumprelu_skip_transcoder skip_transcoder-layer_norm "
        "training-standard training-topk training-batchtopk training-matryoshka training-jumprelu training-gated "
        "training-standard-exported training-topk-exported training-batchtopk-exported training-matryoshka-exported "
        "training-jumprelu-exported training-gated-exported input_scale whitening whitening-gated whitening-raw",
        "standard standard-tied standard-free standard-float64 topk abstopk gated gated-free jumprelu jumprelu-log "
        "batchtopk batchtopk-ranked standard-layer_norm topk-rms transcoder transcoder-free jumprelu_transcoder "
        "batchtopk_transcoder skip_transcoder jumprelu_skip_transcoder skip_transcoder-layer_norm",
    ),
    *_notes("saelens", "saelens", "old-standard old-raw old-topk old-jumprelu old-gated old-layer_norm"),
    *_rows(
        "dictionary_learning",
        "dictionary_learning",
        "AutoEncoder AutoEncoderNew GatedAutoEncoder JumpReluAutoEncoder AutoEncoderTopK BatchTopKSAE "
        "BatchTopKSAE-untrained MatryoshkaBatchTopKSAE",
        "AutoEncoder AutoEncoderNew AutoEncoderNew-free GatedAutoEncoder GatedAutoEncoder-none JumpReluAutoEncoder "
        "JumpReluAutoEncoder-tied AutoEncoderTopK AutoEncoderTopK-none BatchTopKSAE MatryoshkaBatchTopKSAE",
    ),
    *_rows(
        "sparsify",
        "sparsify",
        "topk topk-expansion groupmax skip transcoder skip_transcoder",
        "topk topk-none groupmax skip transcoder transcoder-free skip_transcoder",
    ),
    *_rows(
        "circuit_tracer",
        "circuit_tracer",
        "set-relu set-jumprelu set-relu-skip set-jumprelu-skip one-jumprelu-skip cross-relu cross-jumprelu",
        "one-relu one-free one-jumprelu-skip one-batchtopk set-jumprelu set-skip cross-relu cross-jumprelu",
    ),
    *_rows(
        "llamascopium",
        "llamascopium",
        "sae-relu sae-topk sae-topk-plain sae-jumprelu sae-jumprelu-token sae-jumprelu-inference transcoder-jumprelu "
        "crosscoder-relu crosscoder-jumprelu clt-relu clt-jumprelu",
    ),
    *_notes("llama_scope", "saelens", "llama_scope"),
    *_notes("gemma_scope", "saelens", "gemma_scope_1"),
    *_notes("gemma_scope", "circuit_tracer", "gemma_scope_1-transcoder"),
    *_notes("gemma_scope_2", "saelens", "gemma_scope_2 gemma_scope_2-transcoder gemma_scope_2-transcoder-skip"),
    *_notes(
        "gemma_scope_2",
        "circuit_tracer",
        "gemma_scope_2-square-transcoder gemma_scope_2-cross gemma_scope_2-cross-skip",
    ),
    *_notes("openai", None, "openai-topk openai-relu-tied"),
    *_notes(
        "crosscoder",
        None,
        "crosscoder-relu crosscoder-batchtopk crosscoder-batchtopk-sae crosscoder-batchtopk-mixed "
        "crosscoder-batchtopk-none crosscoder-standardised",
    ),
)
