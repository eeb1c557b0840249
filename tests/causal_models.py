"""Small random models that read from the left, with tokenizers learned as their recipes say."""

from pathlib import Path
from typing import Any

import torch
from corpora import SENTENCES

from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.models.heads import CausalLMHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.records import from_plain
from polyseme.text.learning import LearningSettings, learn
from polyseme.training.recipes import read_recipe

SMALL = {
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 48,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


def causal_model(folder: Path, recipe: str = "gpt2", *, seed: int = 0, **changes: Any) -> Path:
    """A model folder of a recipe; GPT-2's tokenizer has neither a frame nor padding."""
    settings = read_recipe(recipe)
    of_tokenizer = settings.tokenizer | {"vocab_size": 400} | changes.pop("tokenizer", {})
    tokenizer = learn(SENTENCES * 3, from_plain(of_tokenizer, LearningSettings, where=recipe))
    fields = settings.model | SMALL | changes
    fields |= {"vocab_size": tokenizer.vocab_size, "padding_id": tokenizer.filling_id}
    config = from_plain(fields, TransformerConfig, where=recipe)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Transformer(config)
        for parameter in backbone.parameters():  # Fresh biases and norms would hide mistakes.
            parameter.data += torch.randn_like(parameter) * 0.1
    target = folder / recipe
    save(
        Model(backbone, Card(family=settings.family), {"causal-lm": CausalLMHead(config)}, tokenizer), target
    )
    return target
