"""The folders of RoBERTa and XLM-R hold the same models here and in transformers."""

import json
from pathlib import Path

import pytest
import torch
from foreign_models import (
    assert_classifier,
    assert_there_and_back,
    encoder_choices,
    foreign,
    foreign_folder,
    one_thread,
)

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
FAMILIES = ["Roberta", "XLMRoberta"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, family: str, tmp_path: Path) -> None:
    chosen = encoder_choices(300 + seed) | {"hidden_act": "gelu"}
    longest = chosen["max_position_embeddings"]
    chosen["max_position_embeddings"] += chosen["pad_token_id"] + 1
    types = chosen["type_vocab_size"]
    kind = f"{family}ForMaskedLM"
    assert_there_and_back(kind, ["masked-lm"], tmp_path, seed, longest=longest, types=types, **chosen)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_set_of_heads_goes_there_and_back(family: str, tmp_path: Path) -> None:
    assert_there_and_back(f"{family}Model", [], tmp_path, 1, longest=19, types=2, vocab_size=40)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_keeps_its_scores_without_a_pooler(family: str, tmp_path: Path) -> None:
    assert_classifier(f"{family}ForSequenceClassification", tmp_path, types=2)


def test_the_rows_before_the_places_are_not_counted_as_places(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "theirs", "RobertaModel", max_position_embeddings=514, pad_token_id=1)
    model = load(folder)
    assert model.backbone.config.max_position_embeddings == 512
    assert model.backbone.embeddings.positions.weight.shape[0] == 514
    save(model, tmp_path / "ours")
    assert '"max_position_embeddings": 514' in (tmp_path / "ours" / "config.json").read_text()


def test_only_real_tokens_count_as_places(tmp_path: Path) -> None:
    theirs = foreign("RobertaModel", 4, pad_token_id=1)
    theirs.save_pretrained(tmp_path)
    backbone = load(tmp_path).backbone
    left = torch.tensor([[1, 1, 5, 6, 7], [8, 1, 9, 1, 2]])
    mask = left != 1
    with torch.no_grad():
        expected = theirs(left, attention_mask=mask.long()).last_hidden_state
        found = backbone(Batch(left, attention_mask=mask)).last
        alone = backbone(Batch(torch.tensor([[5, 6, 7]]))).last
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found[:1, 2:], alone)


def test_packed_texts_and_named_places_give_the_states_of_the_texts_alone(tmp_path: Path) -> None:
    backbone = load(foreign_folder(tmp_path, "RobertaModel", 5, pad_token_id=1)).backbone.double()
    first, second = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10, 11])
    ids = torch.cat((first, second, torch.tensor([1, 1])))[None]
    documents = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0, 0]])
    with torch.no_grad():
        packed = backbone(Batch(ids, document_ids=documents)).last[0]
        named = backbone(Batch(second[None], position_ids=torch.arange(4)[None])).last[0]
        alone = [backbone(Batch(text[None])).last[0] for text in (first, second)]
    torch.testing.assert_close(packed[:3], alone[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(packed[3:7], alone[1], rtol=0, atol=1e-12)
    assert torch.equal(named, alone[1])


def test_a_table_without_places_and_a_head_that_bends_otherwise_are_refused(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path, "RobertaForMaskedLM", pad_token_id=1, hidden_act="relu")
    load(folder)
    with pytest.raises(CheckpointError, match="'relu', but the masked-lm head of roberta always has 'gelu'"):
        load(folder, heads=["masked-lm"])
    plain = (folder / "config.json").read_text()
    (folder / "config.json").write_text(plain.replace('"pad_token_id": 1', '"pad_token_id": 19'))
    with pytest.raises(CheckpointError, match=r"must be above pad_token_id \+ 1 = 20, got 20"):
        load(folder)


TEXTS = ["深度学习 deep learning", "the lowest learning rate", "学习语言 language, deeply"]
TOKENS = {
    "padding_token": "<pad>",
    "unknown_token": "<unk>",
    "first_token": "<s>",
    "separator_token": "</s>",
    "mask_token": "<mask>",
}


def assert_framed_alike(ours: Tokenizer, theirs: object) -> None:
    """The same ids of a text and of a pair, in the doubled frame."""
    first, second = (ours.encode(text).ids for text in TEXTS[:2])
    assert theirs(TEXTS[0])["input_ids"] == ours.frame.single(first).tolist()
    ids, types = ours.frame.pair(first, second)
    assert theirs(TEXTS[0], TEXTS[1])["input_ids"] == ids.tolist()
    assert types.tolist() == [0] * len(ids)
    assert ours.tokens(ours.frame.before + ours.frame.between + ours.frame.after) == ["<s>", *["</s>"] * 3]


@pytest.mark.parametrize("said", [{"tokenizer_class": "RobertaTokenizer"}, None])
def test_a_vocabulary_with_merges_gets_robertas_frame(said: dict[str, str] | None, tmp_path: Path) -> None:
    learned = learn(TEXTS, LearningSettings(kind="byte-bpe", vocab_size=280, lowercase=False, **TOKENS))
    model = json.loads(learned.files()["tokenizer.json"])["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    if said is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    theirs = transformers.RobertaTokenizer(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]])
    assert_framed_alike(Tokenizer.load(tmp_path), theirs)


def test_gpt2s_vocabulary_with_merges_gets_no_frame(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}')
    (tmp_path / "merges.txt").write_text("a b\n")
    tokens = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "GPT2TokenizerFast", **tokens}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Tokenizer.load(tmp_path).frame.pair_size == 0


def test_xlm_rs_tokenizer_json_gets_its_frame(tmp_path: Path) -> None:
    learned = learn(TEXTS, LearningSettings(kind="unigram", vocab_size=60, lowercase=False, **TOKENS))
    scores = dict(json.loads(learned.files()["tokenizer.json"])["model"]["vocab"])
    special = ("<s>", "<pad>", "</s>", "<unk>")
    rest = [(piece, score) for piece, score in scores.items() if piece not in (*special, "<mask>")]
    vocabulary = [*((token, 0.0) for token in special), *rest, ("<mask>", 0.0)]
    theirs = transformers.XLMRobertaTokenizer(vocab=vocabulary)
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert_framed_alike(ours, theirs)
    assert (ours.padding_id, ours.kind) == (1, "unigram")


def test_a_model_with_one_segment_asks_transformers_for_none(tmp_path: Path) -> None:
    learned = learn(TEXTS, LearningSettings(kind="byte-bpe", vocab_size=280, frame="doubled", **TOKENS))
    sizes = {"vocab_size": 280, "type_vocab_size": 1, "pad_token_id": learned.padding_id}
    model = load(foreign_folder(tmp_path / "theirs", "RobertaModel", **sizes))
    model.tokenizer = learned
    save(model, tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    encoded = theirs(TEXTS[1], TEXTS[2], return_tensors="pt", truncation=True, max_length=15)
    assert "token_type_ids" not in encoded
    transformers.AutoModel.from_pretrained(tmp_path / "ours")(**encoded)
