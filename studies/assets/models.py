"""The real models among the assets: weights are read, no downloaded code is run.

`save_network` writes the networks as transformers folders below networks/ in the cache, where the library's
`open_network` looks for a name.
"""

import json
import os
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

from monosem.base import cache_folder, check, read_json, write_json
from monosem.networks import quiet
from studies.assets.catalog import ASSETS, cached, unpacked

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_ENCODER = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_LLAMA2C_BYTES = 60816028
"""Where the weights end and the tokenizer begins."""
_ABOUT = "asset.json"
"""Notes in a network's folder which file it was made from."""


def stories15m() -> tuple[Any, Any]:
    """(LlamaForCausalLM, tokenizer) of stories15M: 6 layers, d 288, float32, in evaluation mode.

    Raises: AbsentError when it is not in the cache, CheckpointError for a wrong hash; so do all below.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    data = (unpacked("stories15m", ["src/llama2.data"]) / "llama2.data").read_bytes()
    dim, hidden, layers, heads, kv, vocab, length = struct.unpack("7i", data[:28])
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    numbers = torch.from_numpy(np.frombuffer(data, np.float32, (_LLAMA2C_BYTES - 28) // 4, offset=28).copy())
    missing, unexpected = model.load_state_dict(_llama2c(numbers, config), strict=False)
    check(not unexpected and set(missing) <= {"lm_head.weight"}, f"stories15M lacks {missing}, has {unexpected}")
    model.tie_weights()
    return model.eval(), _llama2c_tokenizer(data[_LLAMA2C_BYTES:])


def smollm2() -> tuple[Any, Any]:
    """(LlamaForCausalLM, tokenizer) of SmolLM2-135M-Instruct, its 4-bit weights as float32: 30 layers, d 576."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = unpacked("smollm2", [_GGUF])
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=_GGUF, dtype=torch.float32, local_files_only=True
        )
        return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF, local_files_only=True)


def minilm() -> tuple[Any, Any]:
    """(BertModel, tokenizer) of all-MiniLM-L6-v2: 6 layers, d 384."""
    return _encoder("minilm", "model")


def minilm_finetuned() -> tuple[Any, Any]:
    """(BertModel, tokenizer) of a fine-tuned `minilm`, the same architecture: a pair for crosscoders."""
    return _encoder("minilm_finetuned", "model_weights")


def save_network(name: str) -> Path:
    """Write a network of the cache as a folder that the library opens by name, whole or not at all.

    A folder made from the same file is left as it is. Raises: AbsentError when the asset is not in the cache.
    """
    folder, asset = cache_folder() / "networks" / name, ASSETS[name]
    about = {"asset": name, "package": asset.package, "version": asset.version, "sha256": asset.sha256}
    if (folder / _ABOUT).is_file() and read_json(folder / _ABOUT) == about:
        return folder
    part = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cached(name).parent))
    try:
        NETWORKS[name](part)
        write_json(part / _ABOUT, about)
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(exist_ok=True)
        part.chmod(0o755)
        for file in part.iterdir():
            file.chmod(0o644)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _save_stories15m(folder: Path) -> None:
    model, tokenizer = stories15m()
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _linked(name: str, *members: str) -> Callable[[Path], None]:
    """Members of an archive that make a transformers folder as they are, as hard links where the disk allows it."""

    def save(folder: Path) -> None:
        source = unpacked(name, members)
        for member in members:
            file = member.rpartition("/")[2]
            try:
                os.link(source / file, folder / file)
            except OSError:
                shutil.copyfile(source / file, folder / file)

    return save


NETWORKS: Mapping[str, Callable[[Path], None]] = {
    "stories15m": _save_stories15m,
    "smollm2": _linked("smollm2", _GGUF),
    "minilm": _linked("minilm", *(f"model/{file}" for file in _ENCODER)),
    "minilm_finetuned": _linked("minilm_finetuned", *(f"model_weights/{file}" for file in _ENCODER)),
}
"""How each network's folder is filled."""


@torch.no_grad()
def sentence_vectors(
    model: Any, tokenizer: Any, texts: list[str], batch: int = 32, length: int = 128
) -> Float[Tensor, "texts width"]:
    """One unit vector per text: the mean of the last hidden states over its tokens, over its norm.

    Texts are cut at `length` tokens and go through the model in order of their length.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = torch.zeros(len(texts), model.config.hidden_size)
    for start in range(0, len(order), batch):
        index = order[start : start + batch]
        tokens = tokenizer([texts[i] for i in index], padding=True, truncation=True, max_length=length)
        tokens = {name: torch.tensor(rows) for name, rows in tokens.items()}
        mask = tokens["attention_mask"][:, :, None].float()
        mean = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors[torch.tensor(index)] = torch.nn.functional.normalize(mean, dim=1)
    return vectors


def _encoder(name: str, inside: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = unpacked(name, [f"{inside}/{file}" for file in _ENCODER])
    with quiet():
        model = AutoModel.from_pretrained(folder, local_files_only=True)
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _llama2c(numbers: Tensor, config: Any) -> dict[str, Tensor]:
    """The weights of llama2.c's file under transformers' names; queries and keys from interleaved to half-split."""
    dim, hidden, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    at = 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return numbers[at - size : at].view(*shape)

    def half_split(w: Tensor, heads: int) -> Tensor:
        return w.view(heads, w.shape[0] // heads // 2, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)

    kv = dim * config.num_key_value_heads // config.num_attention_heads
    weights = {"model.embed_tokens.weight": take(config.vocab_size, dim)}
    parts = [
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (kv, dim)),
        ("self_attn.v_proj", (kv, dim)),
        ("self_attn.o_proj", (dim, dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    ]
    turned = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, shape in parts:
        stacked = take(layers, *shape)
        for layer in range(layers):
            weight = half_split(stacked[layer], turned[name]) if name in turned else stacked[layer]
            weights[f"model.layers.{layer}.{name}.weight"] = weight
    return weights | {"model.norm.weight": take(dim)}


def _llama2c_tokenizer(data: bytes) -> Any:
    """The byte-pair tokenizer of llama2.c's file, with <s> before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces, at = [], 4
    while at < len(data):
        _, size = struct.unpack_from("fi", data, at)
        pieces.append(data[at + 8 : at + 8 + size].decode("utf-8", "replace"))
        at += 8 + size
    pieces = [piece.strip() if piece.strip() in ("<s>", "</s>", "<unk>") else piece for piece in pieces]
    pieces[3:] = [piece.replace(" ", "▁") for piece in pieces[3:]]
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces[259:]
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in pieces[:3]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


_EPS = 1e-3
_MEAN = (103.939, 116.779, 123.68)
"""Of blue, green and red: what these weights expect to be subtracted."""
_STAGES = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}


class ResNet50:
    """Pooled features of images, trained on ImageNet-1k.

    Raises: AbsentError when it is not in the cache, CheckpointError for a wrong hash.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        weights = dict(_weights())
        self.convolutions: dict[str, tuple[Tensor, Tensor]] = {}
        for name in [name.removesuffix("/kernel") for name in weights if name.endswith("/kernel") and "fc" not in name]:
            norm = "bn_conv1" if name == "conv1" else name.replace("res", "bn")
            scale = weights[f"{norm}/gamma"] / (weights[f"{norm}/moving_variance"] + _EPS).sqrt()
            bias = (weights[f"{name}/bias"] - weights[f"{norm}/moving_mean"]) * scale + weights[f"{norm}/beta"]
            kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1) * scale[:, None, None, None]
            self.convolutions[name] = kernel.to(dtype).contiguous(), bias.to(dtype)
        self.dtype = dtype

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch height width 3"], size: int = 224) -> Float[Tensor, "batch 2048"]:
        """Features of images in red, green, blue, scaled to `size` pixels a side."""
        x = images.flip(3).permute(0, 3, 1, 2).float()
        x = interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        x = (x - torch.tensor(_MEAN)[:, None, None]).to(self.dtype)
        x = self._conv("conv1", pad(x, (3, 3, 3, 3)), 2).relu()
        x = max_pool2d(pad(x, (1, 1, 1, 1)), 3, 2)
        for stage, blocks in _STAGES.items():
            for block in blocks:
                first, stride = block == "a", 2 if block == "a" and stage > 2 else 1
                name = f"res{stage}{block}_branch"
                shortcut = self._conv(f"{name}1", x, stride) if first else x
                y = self._conv(f"{name}2a", x, stride).relu()
                y = self._conv(f"{name}2c", self._conv(f"{name}2b", y, 1, 1).relu(), 1)
                x = (y + shortcut).relu()
        return x.float().mean((2, 3))

    def _conv(self, name: str, x: Tensor, stride: int, padding: int = 0) -> Tensor:
        kernel, bias = self.convolutions[name]
        return conv2d(x, kernel, bias, stride, padding)


def _weights() -> Iterator[tuple[str, Tensor]]:
    """Every weight of the package by its Keras name."""
    with tarfile.open(cached("resnet50")) as archive:
        parts = {
            member.name.rpartition("/")[2]: file.read()
            for member in archive
            if "/ResNet50/" in member.name and (file := archive.extractfile(member)) is not None
        }
    (manifest,) = json.loads(parts["model.json"])["weightsManifest"]
    numbers = np.frombuffer(b"".join(parts[path] for path in manifest["paths"]), np.float32)
    at = 0
    for entry in manifest["weights"]:
        size = int(np.prod(entry["shape"]))
        yield entry["name"], torch.from_numpy(numbers[at : at + size].reshape(entry["shape"]).copy())
        at += size
