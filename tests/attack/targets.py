"""Whole files of every kind that a command reads, and the calls that read them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from monosem import interop
from monosem.anchors.directions import Anchors
from monosem.bench.records import pack_records, write_record
from monosem.bench.tasks import TaskSource, task
from monosem.core.io import save_model
from monosem.methods import method
from monosem.networks.harvest import harvest
from tests.cli.calls import call
from tests.interop.models import ours
from tests.interop.notes import write_notes
from tests.report.samples import sample

WORDS = ["<pad>", "<s>", *"abcdefghij"]
TABLES = (".npy", ".safetensors", ".parquet")
FORMATS = {
    "saelens": "jumprelu",
    "dictionary_learning": "BatchTopKSAE",
    "sparsify": "skip_transcoder",
    "circuit_tracer": "cross-jumprelu",
    "monosem": "topk",
    "gemma_scope": "gemma_scope_1",
    "gemma_scope_2": "gemma_scope_2-cross",
    "llama_scope": "llama_scope",
    "llamascopium": "llamascopium",
    "openai": "openai-topk",
    "crosscoder": "crosscoder-standardised",
}


@dataclass(frozen=True)
class Target:
    """A folder of whole files, the calls that read it ({in}, and {out} for an output), and the files that count."""

    name: str
    folder: str
    calls: tuple[str, ...]
    files: tuple[str, ...] = ()
    into: bool = False
    """Whether the command writes into the folder that it reads."""


TRAIN = "train --method topk(k=2) --n-q 12 --steps 2 --batch-size 8 --out {out} --data "
HARVEST = "harvest --read model.layers.0:out --rows 20 --length 16 --out {out} "
PLACE = "--network {in}/../llama --read model.layers.0:out"
SCORE = "evaluate {in} --text {in}/../texts/x.txt --rows 20 --length 16"
STEER = "steer {in} --prompt a --tokens 2 --add 1=2"
CLASSES = "anchors from-classes --data {in}/x.npy --out {out}.safetensors --labels "
JUDGED = "anchors score-classes {in} --data {in}/../tables/x.npy --labels {in}/../tables/labels.npy"
SEEN = "inspect {in}/../run --data {in}/../tables/x.npy --out {out}.html "
EXPLAIN = "explain {in} --latents 0-2 --prompts {out}.jsonl"
DICTIONARY = ("model.safetensors", "config.json", "anchors.safetensors", "anchors.json")
TARGETS: tuple[Target, ...] = (
    *(Target(f"{name} model", f"models/{name}", ("convert {in} {out}", "describe {in} --weights")) for name in FORMATS),
    Target("model to score", "models/monosem", ("evaluate {in} --task lrb/nano --rows 64",)),
    *(Target(f"table {end}", "tables", (f"{TRAIN}{{in}}/x{end}",), (f"x{end}",)) for end in TABLES),
    *(
        Target(f"labels {end}", "tables", (f"{TRAIN}{{in}}/x.npy --labels {{in}}/labels{end}",), (f"labels{end}",))
        for end in TABLES
    ),
    Target(
        "anchors",
        "anchors",
        (f"{TRAIN}{{in}}/x.npy --anchors {{in}}/anchors.safetensors",),
        ("anchors.safetensors", "anchors.json"),
    ),
    Target("store", "store", (f"{TRAIN}{{in}} --read 0:out",)),
    Target(
        "checkpoint",
        "run",
        (TRAIN.replace("{out}", "{in}") + "{in}/../tables/x.npy --labels {in}/../tables/labels.npy --classes 0,1",),
        ("checkpoint.safetensors", "log.jsonl"),
        into=True,
    ),
    Target(
        "page of latents",
        "run",
        ("inspect {in} --data {in}/../tables/x.npy --out {out}.html",),
        DICTIONARY,
    ),
    Target("classes of anchors", "run", (JUDGED,), DICTIONARY),
    *(Target(f"classes {end}", "tables", (f"{CLASSES}{{in}}/labels{end}",), (f"labels{end}",)) for end in TABLES),
    Target("rows", "sparse", ("anchors discover --data {in}/x.npy --out {out}.safetensors",)),
    *(
        Target(f"texts of rows {end}", "seen", (f"{SEEN}--texts {{in}}/texts{end}",), (f"texts{end}",))
        for end in (".txt", ".json", ".npy", ".parquet")
    ),
    Target("images of rows", "seen", (SEEN + "--images {in}/images.npy",), ("images.npy",)),
    Target("problem", "problem", ("check --problem {in}/problem.json --trials 1",)),
    Target("options", "options", ("train --config {in}/train.toml --data {in}/../tables/x.npy --out {out}",)),
    Target("records", "records", ("report {in} --out {out}.html",)),
    Target("packed records", "packed", ("report {in}/all.jsonl.gz --out {out}.html",)),
    *(
        Target(f"texts {end}", "texts", (f"{HARVEST}--network {{in}}/../llama --text {{in}}/x{end}",), (f"x{end}",))
        for end in (".txt", ".jsonl", ".parquet")
    ),
    Target("network", "llama", (HARVEST + "--network {in} --text {in}/../texts/x.txt",)),
    Target("model in its network", "coder", (f"{SCORE} {PLACE}", f"{STEER} {PLACE}")),
    Target("note of a store", "coder", (SCORE, STEER), ("source.json",)),
    Target("answers", "coder", (EXPLAIN + " --answers {in}/answers.jsonl",), ("answers.jsonl",), into=True),
    Target("words", "coder", ("inspect {in} --out {out}.html",), ("labels.json",)),
)


def write(root: Path) -> None:
    """Write everything whole."""
    for make in (_models, _tables, _store, _records, _texts, _seen):
        make(root)
    run = TRAIN + "{in}/tables/x.npy --labels {in}/tables/labels.npy --classes 0,1"
    assert call(*fill(run, root, root / "run")).exit_code == 0


def warm(root: Path, outputs: Path, targets: Iterable[Target] = TARGETS) -> None:
    """Call the targets' commands on whole files: none may fail, and all that they import is imported."""
    for number, target in enumerate(targets):
        for text in target.calls:
            out = outputs / f"{number}-{text.split()[0]}"
            ran = call(*fill(text, root / target.folder, out))
            assert ran.exit_code == 0, (target.name, ran.output, ran.exception)


def fill(text: str, into: Path, out: Path) -> list[str]:
    """A call with its folder and its output."""
    return [word.replace("{in}", str(into)).replace("{out}", str(out)) for word in text.split()]


def _models(root: Path) -> None:
    notes = {folder.name: folder for _, folder in write_notes(root / "notes")}
    for format, case in FORMATS.items():
        if case in notes:
            (root / "models").mkdir(exist_ok=True)
            notes[case].rename(root / "models" / format)
        else:
            model, metadata = ours("saelens" if format == "monosem" else format)[case]
            interop.save(model, root / "models" / format, format, metadata)
    source = TaskSource(task("lrb/nano", "sae", 0))  # what is scored on a task has the task's widths
    model, _ = method("topk(k=3)").build(24, source.p_widths, source.r_widths)
    save_model(model.eval(), root / "models" / "monosem", {"method": "topk(k=3)"})


def _tables(root: Path) -> None:
    import pyarrow
    import pyarrow.parquet
    from safetensors.torch import save_file

    (root / "tables").mkdir(parents=True)
    rows = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    labels = np.arange(40) % 3
    np.save(root / "tables/x.npy", rows)
    np.save(root / "tables/labels.npy", labels)
    save_file({"x": torch.from_numpy(rows)}, root / "tables/x.safetensors")
    save_file({"y": torch.from_numpy(labels)}, root / "tables/labels.safetensors")
    columns = {f"c{i}": rows[:, i] for i in range(6)}
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "tables/x.parquet")
    words = pyarrow.table({"y": [f"class {n}" for n in labels]})
    pyarrow.parquet.write_table(words, root / "tables/labels.parquet")
    (root / "anchors").mkdir()
    np.save(root / "anchors/x.npy", rows)
    Anchors(torch.eye(6)[:, :2], torch.eye(6)[:, :2]).save(root / "anchors/anchors.safetensors")
    (root / "anchors/anchors.json").write_text(json.dumps({"classes": ["a", "b"]}))


def _seen(root: Path) -> None:
    """What a person sees of 40 rows; rows that are sparse; a problem; options."""
    import pyarrow
    import pyarrow.parquet

    words = [f"row {n}" for n in range(40)]
    (root / "seen").mkdir()
    (root / "seen/texts.txt").write_text("\n".join(words))
    (root / "seen/texts.json").write_text(json.dumps(words))
    np.save(root / "seen/texts.npy", np.array(words))
    pyarrow.parquet.write_table(pyarrow.table({"texts": words}), root / "seen/texts.parquet")
    np.save(root / "seen/images.npy", np.zeros((40, 4, 4), np.uint8))
    (root / "sparse").mkdir()
    codes = np.random.default_rng(0).random((400, 6)) * (np.random.default_rng(1).random((400, 6)) < 0.2)
    np.save(root / "sparse/x.npy", (codes @ np.random.default_rng(2).standard_normal((6, 4))).astype(np.float32))
    (root / "problem").mkdir()
    problem = {"W_p": [[1.0, 0.0], [0.0, 1.0]], "weights": [1.0, 0.5], "activation": "relu", "n_q": 1}
    (root / "problem/problem.json").write_text(json.dumps(problem))
    (root / "options").mkdir()
    options = 'method = "topk(k=2)"\nn-q = 12\nsteps = 2\nbatch-size = 8\nthreads = 1\nbetas = [0.9, 0.99]\n'
    (root / "options/train.toml").write_text(options)


def _store(root: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 6), nn.ReLU()).eval()
    batches = [torch.randn(15, 4) for _ in range(3)]
    words = [f"word {i}" for i in range(9)]
    harvest(layer, "0:out; 1:out", batches, root / "store", shard_rows=20, vocabulary=words)


def _records(root: Path) -> None:
    records = [sample(anchors=anchors, seed=seed) for anchors in (0, 3) for seed in (0, 1)]
    for record in records:
        write_record(root / "records", record)
    (root / "packed").mkdir()
    pack_records(root / "packed/all.jsonl.gz", records)


def _texts(root: Path) -> None:
    import pyarrow
    import pyarrow.parquet
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tests.networks.llamas import trained

    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(root / "llama")
    known = {"tokenizer_object": tokens, "pad_token": "<pad>", "bos_token": "<s>"}
    PreTrainedTokenizerFast(**known).save_pretrained(root / "llama")
    texts = ["a b c d e f", "b c d", "j i h g f e d c", "a a b b"] * 3
    (root / "texts").mkdir()
    (root / "texts/x.txt").write_text("\n".join(texts))
    (root / "texts/x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), root / "texts/x.parquet")
    save_model(trained("topk(k=3)", 16, (8,), (8,)), root / "coder")
    words = "harvest --network {in}/llama --read model.layers.0:out --text {in}/texts/x.txt --length 16 --out {out}"
    harvested = call(*fill(words, root, root / "activations"))
    assert harvested.exit_code == 0, harvested.output
    note = {"store": str(root / "activations"), "read": ["model.layers.0:out"], "write": None}
    (root / "coder/source.json").write_text(json.dumps(note))
    assert call(*fill(EXPLAIN, root / "coder", root / "asked")).exit_code == 0
    asked = map(json.loads, (root / "asked.jsonl").read_text().splitlines())
    answers = "".join(json.dumps({"id": prompt["id"], "answer": "one of a, b"}) + "\n" for prompt in asked)
    (root / "coder/answers.jsonl").write_text(answers)
    explained = call(*fill(EXPLAIN + " --answers {in}/answers.jsonl", root / "coder", root / "asked"))
    assert explained.exit_code == 0, explained.output
