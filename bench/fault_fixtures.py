"""Sound small folders of every kind, made with the commands that users make them with."""

import bz2
import gzip
import json
import lzma
import pickle
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from fault_cases import COMMANDS, FINETUNE, SMALL
from fault_process import KILL_BEFORE, Fault, run

DATA = Path(__file__).parents[1] / "tests" / "data"
CHARACTERS = "法院依照定程序审理案件人民合同民事责任权利义务公司股东会计算机系统数据网络文本处理语言模型训练"
GOOD, BAD = "好店美味快喜欢", "差脏慢贵坏讨厌"


def build(folder: Path, shim: bool) -> None:
    """Make the sound files of every case, with the commands that users make them with."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in _FIXTURES.items():
        if (name in INTERRUPTED and not shim) or (folder / name).exists():
            continue
        building = folder / f"building-{name}"
        shutil.rmtree(building, ignore_errors=True)
        make(folder, building)
        building.rename(folder / name)


INTERRUPTED = ("interrupted-pretrain", "interrupted-electra", "interrupted-finetune", "interrupted-embed")
"""Fixtures for which the shim is needed."""


def _do(folder: Path, words: str) -> None:
    outcome = run(words.split(), folder, seconds=300)
    if outcome.status != 0:
        raise SystemExit(f"polyseme {words}: exit {outcome.status}: {outcome.stderr}")


def _command(words: str) -> Callable[[Path, Path], None]:
    return lambda folder, out: _do(folder, f"{words} --out {out.name}")


def _random_line(rng: random.Random, index: int) -> str:
    line = "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(8, 30))) + "。"
    return line + (" the data 2024" if index % 3 == 0 else "")


def _text(folder: Path, out: Path) -> None:
    out.mkdir()
    rng = random.Random(1)
    documents = [[_random_line(rng, index) for index in range(6)] for _ in range(40)]
    plain = "\n\n".join("\n".join(lines) for lines in documents) + "\n"
    lines = [line for document in documents[:8] for line in document]
    (out / "plain.txt").write_text(plain, encoding="utf-8")
    (out / "plain.txt.xz").write_bytes(lzma.compress(plain.encode()))
    (out / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "prompts.txt").write_text("\n".join(lines[:4]) + "\n", encoding="utf-8")
    (out / "lines.jsonl").write_text(
        "".join(
            json.dumps({"text": line, "id": n}, ensure_ascii=False) + "\n" for n, line in enumerate(lines)
        ),
        encoding="utf-8",
    )
    (out / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairwise(lines)))
    pages = "".join(
        f"<page><title>条目{n}</title><ns>0</ns><id>{n}</id><revision><id>{n}</id><text xml:space='preserve'>"
        f"'''条目{n}'''是[[法院|一个]]{{{{模板|参数}}}}&lt;ref&gt;来源&lt;/ref&gt;。\n== 节 ==\n"
        f"{'<br />'.join(document)}\n[http://example.org 链接] [[Category:法]]&amp;nbsp;\n"
        "{| class='wikitable'\n| 一 || 二\n|}</text></revision></page>\n".replace("<br />", "\n")
        for n, document in enumerate(documents[:6])
    )
    wiki = (
        f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="zh">\n{pages}</mediawiki>\n'
    )
    (out / "wiki.xml").write_text(wiki, encoding="utf-8")
    (out / "wiki.xml.bz2").write_bytes(bz2.compress(wiki.encode()))


def _labelled(folder: Path, out: Path) -> None:
    out.mkdir()
    rng = random.Random(2)
    rows = []
    for index in range(40):
        words = GOOD if index % 2 else BAD
        text = "".join(rng.choice(CHARACTERS) for _ in range(8)) + "".join(
            rng.choice(words) for _ in range(4)
        )
        rows.append((text, "好评" if index % 2 else "差评"))
    for name, part in (("train", rows[:24]), ("dev", rows[24:])):
        (out / f"{name}.tsv").write_text(
            "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in part), encoding="utf-8"
        )
        (out / f"{name}.csv").write_text(
            "text,label\n" + "".join(f'"{text},{text[:3]}",{label}\n' for text, label in part),
            encoding="utf-8",
        )
        (out / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": t, "label": label}, ensure_ascii=False) + "\n" for t, label in part),
            encoding="utf-8",
        )
        tagged = "\n".join(
            "".join(f"{c} {'B-好' if n == 2 else 'I-好' if n == 3 else 'O'}\n" for n, c in enumerate(text))
            for text, _ in part
        )
        (out / f"{name}.bio").write_text(tagged + "\n", encoding="utf-8")
    questions = [
        {"id": str(n), "question": text[:4], "answers": [{"text": text[2:4], "answer_start": 2}]}
        for n, (text, _) in enumerate(rows[:4])
    ]
    paragraphs = [{"context": rows[n][0], "qas": [question]} for n, question in enumerate(questions)]
    squad = {"version": "1.1", "data": [{"title": "题", "paragraphs": paragraphs}]}
    (out / "squad.json").write_text(json.dumps(squad, ensure_ascii=False), encoding="utf-8")
    (out / "choices.jsonl").write_text(
        "".join(
            json.dumps(
                {"text": t, "question": t[:3], "choices": [t[1:4], t[4:6]], "label": 0}, ensure_ascii=False
            )
            + "\n"
            for t, _ in rows[:6]
        ),
        encoding="utf-8",
    )


def _annotated(folder: Path, out: Path) -> None:
    """Files of annotation tools, and of tasks that no model of these fixtures has learned."""
    out.mkdir()
    rng = random.Random(3)
    texts = ["".join(rng.choice(CHARACTERS) for _ in range(12)) for _ in range(12)]

    def lines(name: str, objects: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in objects)
        (out / name).write_text(text, encoding="utf-8")

    def table(name: str, head: str, rows: list[tuple[Any, ...]]) -> None:
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (out / name).write_text(f"{head}\n{text}", encoding="utf-8")

    lines("doccano.jsonl", [{"id": n, "text": t, "label": [[2, 4, "好"]]} for n, t in enumerate(texts)])
    regions = [
        {"type": "labels", "value": {"start": 2, "end": 4, "text": text[2:4], "labels": ["好"]}}
        for text in texts
    ]
    tasks = [
        {"id": n, "data": {"text": text}, "annotations": [{"was_cancelled": False, "result": [region]}]}
        for n, (text, region) in enumerate(zip(texts, regions, strict=True))
    ]
    (out / "studio.json").write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    pairs = [(texts[n // 3], texts[-1 - n], int(n % 3 == 0)) for n in range(12)]
    table("ranking.tsv", "query\tcandidate\tlabel", pairs)
    table("scores.tsv", "text\ttext_b\tscore", [(a, b, n / 4) for n, (a, b, _) in enumerate(pairs)])
    lines(
        "intents.jsonl",
        [
            {
                "words": list(text),
                "tags": ["O"] * 2 + ["B-好", "I-好"] + ["O"] * 8,
                "intent": f"问{n % 2}",
            }
            for n, text in enumerate(texts)
        ],
    )


def _packed(folder: Path, out: Path) -> None:
    out.mkdir()
    (out / "wiki.xml.gz").write_bytes(gzip.compress((folder / "text" / "wiki.xml").read_bytes(), mtime=0))


def _paddle(folder: Path, out: Path) -> None:
    """ERNIE's parameters as PaddleNLP pickles them, by the names of its networks."""
    import numpy as np
    import safetensors.numpy

    state: dict[str, Any] = {}
    for name, array in safetensors.numpy.load_file(folder / "foreign" / "model.safetensors").items():
        matrix = array.ndim == 2 and "embeddings" not in name
        for theirs, ours in _PADDLE_NAMES:
            name = name.replace(theirs, ours)
        state[name] = np.ascontiguousarray(array.T if matrix else array)
    out.mkdir()
    (out / "ernie_v1.pdparams").write_bytes(pickle.dumps(state, protocol=4))
    settings = json.loads((folder / "foreign" / "config.json").read_bytes())
    said = {key: settings[key] for key in ("hidden_act", "num_attention_heads", "num_hidden_layers")}
    (out / "model_config.json").write_text(json.dumps(said))
    shutil.copy(folder / "foreign" / "vocab.txt", out / "vocab.txt")


_PADDLE_NAMES = (
    ("bert.", "ernie."),
    ("embeddings.LayerNorm", "embeddings.layer_norm"),
    ("encoder.layer.", "encoder.layers."),
    ("attention.self.query", "self_attn.q_proj"),
    ("attention.self.key", "self_attn.k_proj"),
    ("attention.self.value", "self_attn.v_proj"),
    ("attention.output.dense", "self_attn.out_proj"),
    ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "linear1"),
    ("predictions.transform.dense", "predictions.transform"),
    ("predictions.transform.LayerNorm", "predictions.layer_norm"),
    ("predictions.bias", "predictions.decoder_bias"),
    ("output.dense", "linear2"),
    ("output.LayerNorm", "norm2"),
)


def _foreign(folder: Path, out: Path) -> None:
    """A folder as transformers writes it: without the file that holds hashes."""
    shutil.copytree(folder / "bert", out)
    for name in ("polyseme.json", "journal.jsonl", "run.json", "curves.svg", ".lock"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "state", ignore_errors=True)


def _unhashed(name: str) -> Callable[[Path, Path], None]:
    """A tokenizer without the file that holds hashes."""

    def make(folder: Path, out: Path) -> None:
        shutil.copytree(folder / name, out)
        (out / "polyseme.json").unlink()

    return make


def _pickled(folder: Path, out: Path) -> None:
    import safetensors.torch
    import torch

    shutil.copytree(folder / "foreign", out)
    torch.save(safetensors.torch.load_file(out / "model.safetensors"), out / "pytorch_model.bin")
    (out / "model.safetensors").unlink()


def _sharded(folder: Path, out: Path) -> None:
    import safetensors.torch

    shutil.copytree(folder / "foreign", out)
    tensors = safetensors.torch.load_file(out / "model.safetensors")
    (out / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for shard, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{shard:05}-of-00002.safetensors"
        safetensors.torch.save_file({n: tensors[n] for n in part}, out / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _sentence(folder: Path, out: Path) -> None:
    shutil.copytree(folder / "foreign", out)
    kinds = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    modules = [
        {"idx": n, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (name, path, kind) in enumerate(kinds)
    ]
    (out / "modules.json").write_text(json.dumps(modules))
    (out / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": 32,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    }
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (out / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    settings = {"prompts": {"query": "问"}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (out / "config_sentence_transformers.json").write_text(json.dumps(settings))


def _sentencepiece(folder: Path, out: Path) -> None:
    out.mkdir()
    (out / "spiece.model").write_bytes(
        lzma.decompress((DATA / "sentencepiece" / "behind.model.xz").read_bytes())
    )
    settings = {
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "tokenizer_class": "T5Tokenizer",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings))


def _recipe(folder: Path, out: Path) -> None:
    out.mkdir()
    import polyseme

    text = (Path(polyseme.__file__).parent / "recipes" / "bert.toml").read_text(encoding="utf-8")
    (out / "recipe.toml").write_text(text, encoding="utf-8")


def _copied(name: str) -> Callable[[Path, Path], None]:
    return lambda folder, out: shutil.copytree(DATA / name, out)


def _interrupted(name: str, contains: str, nth: int) -> Callable[[Path, Path], None]:
    """What a command leaves that is killed at the `nth` call on a path that contains `contains`."""

    def make(folder: Path, out: Path) -> None:
        command = next(command for command in COMMANDS if command.name == name)
        out.mkdir()
        for need in command.needs:
            (out / need).symlink_to(folder / need)
        fault = Fault(out, nth, KILL_BEFORE, contains)
        outcome = run(command.words, out, fault=fault, seconds=300)
        if outcome.status != -9:
            raise SystemExit(f"{name} was not killed at call {nth} on {contains}: {outcome}")
        for need in command.needs:
            (out / need).unlink()

    return make


_FIXTURES: dict[str, Callable[[Path, Path], None]] = {
    "text": _text,
    "labelled": _labelled,
    "annotated": _annotated,
    "packed": _packed,
    "vocab": _command("tokenizer learn text/plain.txt --kind wordpiece --vocab-size 300"),
    "unigram": _command("tokenizer learn text/plain.txt --kind unigram --vocab-size 300"),
    "bytes": _command(
        "tokenizer learn text/plain.txt --kind byte-bpe --vocab-size 400 --frame none "
        "--separator-token <|endoftext|>"
    ),
    "sentencepiece": _sentencepiece,
    "store": _command("prepare text/plain.txt --tokenizer vocab --shard-tokens 2000"),
    "byte-store": _command("prepare text/plain.txt --tokenizer bytes"),
    "bert": _command(f"pretrain bert store --steps 2 {SMALL}"),
    "electra": _command(f"pretrain electra store --steps 2 {SMALL} model.embedding.size=16"),
    "gpt2": _command(f"pretrain gpt2 byte-store --steps 2 {SMALL}"),
    "classifier": _command(FINETUNE),
    "tagger": _command(
        "finetune tagging --train labelled/train.bio --dev labelled/dev.bio --model bert --epochs 1 "
        "--threads 1 --tagger crf"
    ),
    "foreign": _foreign,
    "foreign-vocab": _unhashed("vocab"),
    "foreign-unigram": _unhashed("unigram"),
    "foreign-bytes": _unhashed("bytes"),
    "pickled": _pickled,
    "paddle": _paddle,
    "sharded": _sharded,
    "sentence": _sentence,
    "tensorflow": lambda folder, out: _do(folder, f"convert bert {out.name} --to tensorflow"),
    "uer_bert": _copied("uer_bert"),
    "recipe": _recipe,
    "interrupted-pretrain": _interrupted("pretrain bert", "model.safetensors", 1),
    "interrupted-electra": _interrupted("pretrain electra", "model.safetensors", 1),
    "interrupted-finetune": _interrupted("finetune", "/.out.part/", 1),
    "interrupted-embed": _interrupted("embed npy", "whole.json.", 1),
}
