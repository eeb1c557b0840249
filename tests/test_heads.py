"""Heads agree with the published ones and refuse what their backbone cannot give."""

import numpy as np
import pytest
import torch
from test_transformer import BERT, MODERNBERT, assert_close, bert, modernbert, padded_batch, redraw, translate
from torch import nn

from polyseme.models.batch import Batch
from polyseme.models.heads import ClassificationHead, MaskedLMHead
from polyseme.models.transformer.model import Transformer

CLASSIFIER = {
    r"classifier": "head.dense",
    r"head\.dense": "head.transform.dense",
    r"head\.norm": "head.transform.norm",
}


def sizes(config) -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "num_labels": 3,
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_classifier_on_the_pooler_agrees_with_its_reference(seed: int) -> None:
    transformers = pytest.importorskip("transformers")
    config, rng = bert(), np.random.default_rng(seed)
    reference = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes(config))).eval()
    redraw(reference, seed)
    head = ClassificationHead(config, 3, "pooler")
    ours = nn.ModuleDict({"backbone": Transformer(config), "head": head}).eval()
    translate(reference, ours, BERT | CLASSIFIER)
    batch = padded_batch(rng, config.vocab_size, 2, 20)
    with torch.no_grad():
        expected = reference(
            batch.input_ids, attention_mask=batch.attention_mask.long(), token_type_ids=batch.token_type_ids
        )
        assert_close(head(ours["backbone"](batch), batch.attention_mask), expected.logits)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_classifier_that_pools_itself_agrees_with_its_reference(pooling: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = modernbert()
    reference = transformers.ModernBertForSequenceClassification(
        transformers.ModernBertConfig(
            **sizes(config),
            global_attn_every_n_layers=1,
            pad_token_id=0,
            classifier_pooling={"first": "cls", "mean": "mean"}[pooling],
        )
    ).eval()
    redraw(reference, 0)
    head = ClassificationHead(config, 3, pooling, "norm")
    ours = nn.ModuleDict({"backbone": Transformer(config), "head": head}).eval()
    translate(reference, ours, MODERNBERT | CLASSIFIER)
    ids = torch.randint(0, config.vocab_size, (3, 12))
    mask = torch.arange(12)[None] < torch.tensor([[12], [5], [9]])
    with torch.no_grad():
        expected = reference(ids, attention_mask=mask.long()).logits
        assert_close(head(ours["backbone"](Batch(ids, attention_mask=mask)), mask), expected)


def test_the_decoder_is_the_token_table_it_is_given() -> None:
    config = bert()
    model, head = Transformer(config), MaskedLMHead(config)
    table = model.embeddings.tokens.weight
    head(torch.randn(4, config.hidden_size), table).sum().backward()
    assert table.grad is not None
    assert not any(table is parameter for parameter in head.parameters())


def test_a_classifier_refuses_a_pooling_its_model_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"no pooling 'most' of a classifier; choose pooler, first"):
        ClassificationHead(bert(), 2, "most")
    with pytest.raises(ValueError, match=r"'pooler' needs a model with a pooler; choose 'first' or 'mean'"):
        ClassificationHead(modernbert(), 2, "pooler")
