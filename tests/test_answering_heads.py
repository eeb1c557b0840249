"""Heads that find answers: the folders that transformers writes for them load here, and ours load there."""

from pathlib import Path

import pytest
import torch
from foreign_models import CLEAN, assert_close, foreign, inputs_of, padded_batch

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch

FAMILIES: list[tuple[str, int, dict[str, str]]] = [
    ("Bert", 2, {}),
    ("Ernie", 2, {}),
    ("Roberta", 1, {}),
    ("XLMRoberta", 1, {}),
    ("Albert", 2, {}),
    ("Electra", 2, {}),
    ("DistilBert", 0, {}),
    ("ModernBert", 0, {"classifier_pooling": "cls"}),
    ("ModernBert", 0, {"classifier_pooling": "mean"}),
]
"""With how many kinds of segments the small models are built, and what else is chosen."""


def choices_of(batch: Batch) -> dict[str, torch.Tensor]:
    """The batch as one question with a choice a row."""
    return {name: tensor[None] for name, tensor in inputs_of(batch).items()}


def our_spans(model: Model, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model.heads["question-answering"](model.backbone(batch).last)
    return scores


def our_choices(model: Model, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model.heads["multiple-choice"](model.backbone(batch), batch.attention_mask)
    return scores


@pytest.mark.parametrize(("family", "types", "own"), FAMILIES)
def test_spans_and_choices_agree_with_transformers_there_and_back(
    family: str, types: int, own: dict[str, str], tmp_path: Path
) -> None:
    import transformers

    for kind, head in (("QuestionAnswering", "question-answering"), ("MultipleChoice", "multiple-choice")):
        name = f"{family}For{kind}"
        theirs = foreign(name, 5, **own)
        theirs.save_pretrained(tmp_path / name / "theirs")
        ours = load(tmp_path / name / "theirs", heads=[head])
        assert heads_in(tmp_path / name / "theirs") == [head]
        save(ours, tmp_path / name / "ours")
        back, told = getattr(transformers, name).from_pretrained(
            tmp_path / name / "ours", output_loading_info=True
        )
        assert {key: list(told[key]) for key in CLEAN} == {key: [] for key in CLEAN}
        automatic = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(tmp_path / name / "ours")
        assert type(automatic) is type(theirs)
        again = load(tmp_path / name / "ours", heads=[head])
        assert files_of(again) == files_of(ours)
        batch = padded_batch(5, ours.backbone.config.vocab_size, types, 15)
        assert batch.attention_mask is not None
        for reference in (theirs, back.eval()):
            with torch.no_grad():
                if head == "multiple-choice":
                    assert_close(our_choices(ours, batch), reference(**choices_of(batch)).logits[0])
                    continue
                expected = reference(**inputs_of(batch))
            scores = our_spans(ours, batch)
            for number, theirs_of_one in enumerate((expected.start_logits, expected.end_logits)):
                real = batch.attention_mask
                assert_close(scores[..., number][real], theirs_of_one[real])


def test_the_simple_reader_and_the_chooser_of_xlnet_agree_with_transformers(tmp_path: Path) -> None:
    import transformers

    sizes = {
        "vocab_size": 40,
        "d_model": 16,
        "n_layer": 2,
        "n_head": 2,
        "d_inner": 24,
        "mem_len": None,
        "pad_token_id": 0,
    }
    config = transformers.XLNetConfig(**sizes)
    torch.manual_seed(0)
    rows = torch.randint(5, 40, (3, 9))
    reader = transformers.XLNetForQuestionAnsweringSimple(config).eval()
    reader.save_pretrained(tmp_path / "reader")
    chooser = transformers.XLNetForMultipleChoice(config).eval()
    chooser.save_pretrained(tmp_path / "chooser")
    with torch.no_grad():
        spans = reader(input_ids=rows)
        expected = torch.stack((spans.start_logits, spans.end_logits), dim=-1)
        ours = load(tmp_path / "reader", heads=["question-answering"])
        assert_close(our_spans(ours, Batch(rows)), expected)
        chosen = chooser(input_ids=rows[None]).logits[0]
        ours = load(tmp_path / "chooser", heads=["multiple-choice"])
        assert_close(our_choices(ours, Batch(rows)), chosen)
    transformers.XLNetForQuestionAnswering(config).save_pretrained(tmp_path / "beams")
    with pytest.raises(CheckpointError, match=r"has no question-answering \(its architectures: XLNetForQ"):
        load(tmp_path / "beams", heads=["question-answering"])


def test_a_folder_is_read_as_what_its_architecture_says(tmp_path: Path) -> None:
    foreign("BertForMultipleChoice").save_pretrained(tmp_path / "choices")
    foreign("BertForSequenceClassification", num_labels=1).save_pretrained(tmp_path / "classes")
    assert heads_in(tmp_path / "choices") == ["multiple-choice"]
    assert heads_in(tmp_path / "classes") == ["classification"]
    with pytest.raises(CheckpointError, match="has no classification"):
        load(tmp_path / "choices", heads=["classification"])
    with pytest.raises(CheckpointError, match="has no multiple-choice"):
        load(tmp_path / "classes", heads=["multiple-choice"])
    fresh = load(tmp_path / "classes", fresh=["multiple-choice", "pooler"])
    assert fresh.heads["multiple-choice"].dense.out_features == 1


@pytest.mark.parametrize("head", ["question-answering", "multiple-choice"])
def test_families_without_such_a_class_are_refused_by_name(head: str, tmp_path: Path) -> None:
    foreign("BertModel").save_pretrained(tmp_path / "bert")
    model = load(tmp_path / "bert", fresh=[head])
    card = Card(family="gpt2")
    with pytest.raises(CheckpointError, match=f"a gpt2 folder cannot hold the heads {head}"):
        save(Model(model.backbone, card, model.heads), tmp_path / "gpt2")
