"""Conversion writes the same model again and accounts for every tensor."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from foreign_models import foreign_folder
from safetensors.torch import load_file

from polyseme.checkpoints.convert import convert
from polyseme.checkpoints.loading import heads_in, load
from polyseme.errors import CheckpointError

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("kind", "heads", "cut"),
    [
        ("BertModel", [], 0),
        ("BertForPreTraining", ["masked-lm", "next-sentence"], 0),
        ("BertForSequenceClassification", ["classification"], 0),
        ("ModernBertForMaskedLM", ["masked-lm"], 4),
        ("ModernBertForSequenceClassification", ["classification"], 4),
    ],
)
def test_a_converted_model_is_the_same_tensor_by_tensor(
    kind: str, heads: list[str], cut: int, tmp_path: Path
) -> None:
    source = foreign_folder(tmp_path / "source", kind, tokenizer=True)
    receipt = convert(source, tmp_path / "target")
    before, after = (getattr(transformers, kind).from_pretrained(tmp_path / f) for f in ("source", "target"))
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(t, after.state_dict()[name]) for name, t in before.state_dict().items())
    stored = load_file(source / "model.safetensors")
    assert list(receipt.heads) == heads == heads_in(tmp_path / "target")
    assert (receipt.tensors, receipt.cut) == (len(stored), cut)
    assert receipt.unused == receipt.skipped == ()
    assert receipt.parameters == sum(tensor.numel() for tensor in stored.values())
    assert load(tmp_path / "target").tokenizer is not None


def test_an_old_pickle_becomes_safetensors_and_the_receipt_says_what_was_left(tmp_path: Path) -> None:
    source = foreign_folder(tmp_path / "source", "BertForMaskedLM")
    tensors = load_file(source / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["bert.embeddings.position_ids"] = torch.arange(20)[None]
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    receipt = convert(source, tmp_path / "target")
    assert receipt.unused == ("bert.embeddings.position_ids", "cls.predictions.decoder.weight")
    count = len(tensors) - 2
    assert str(receipt) == (
        f"bert with masked-lm: {count} tensors read, {count} renamed, 0 transposed, 0 cut into several, "
        f"{receipt.parameters:,} parameters; "
        "not needed: bert.embeddings.position_ids, cls.predictions.decoder.weight"
    )
    assert (tmp_path / "target" / "model.safetensors").exists()


def test_what_would_be_lost_is_not_converted_unless_it_may_go(tmp_path: Path) -> None:
    source = foreign_folder(tmp_path / "source", "BertModel")
    file = source / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tinybert = {"fit_dense.weight": torch.ones(2, 2), "fit_dense.bias": torch.ones(2)}
    safetensors.torch.save_file(tensors | tinybert, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"holds fit_dense\.bias, fit_dense\.weight, which would be lost"
    ):
        convert(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    receipt = convert(source, tmp_path / "target", heads=[])
    assert receipt.skipped == ("fit_dense.bias", "fit_dense.weight")
    assert str(receipt).endswith("; left out: fit_dense.bias, fit_dense.weight")
