"""The real models among the assets, as transformers objects: weights are read, no downloaded code is run."""

import struct
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import check
from monosem.networks.models import quiet
from studies.assets.catalog import unpacked

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_ENCODER = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_LLAMA2C_BYTES = 60816028
"""Where the weights end and the tokenizer begins."""


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
    found = {"model.embed_tokens.weight": take(config.vocab_size, dim)}
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
            found[f"model.layers.{layer}.{name}.weight"] = weight
    return found | {"model.norm.weight": take(dim)}


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
