"""The whole life of pre-trained language models, from raw text to served vectors.

Each command of the command line is a function here with the same words. A name is imported when it is
first used, so `import polyseme` is quick and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyseme.checkpoints.convert import convert
    from polyseme.checkpoints.loading import load
    from polyseme.checkpoints.saving import save
    from polyseme.cli.reporter import show_progress
    from polyseme.embedding.embedder import Embedder
    from polyseme.embedding.embedding import embed
    from polyseme.evaluation.perplexity import perplexity
    from polyseme.generation.filling import Filler, fill
    from polyseme.generation.generating import Generator, generate
    from polyseme.inspection.machine import show_machine
    from polyseme.inspection.masks import show_masks
    from polyseme.inspection.model import show_model
    from polyseme.inspection.store import show_store
    from polyseme.inspection.tokens import show_tokens
    from polyseme.inspection.verifying import verify
    from polyseme.tasks.finetuning import finetune
    from polyseme.tasks.predicting import evaluate, predict
    from polyseme.tasks.predictor import Predictor
    from polyseme.text.preparing import prepare
    from polyseme.text.store import Store
    from polyseme.text.tokenizer import Tokenizer
    from polyseme.text.tokenizer_learning import learn_tokenizer
    from polyseme.training.distilling import distill
    from polyseme.training.pretraining import pretrain
    from polyseme.training.recipes import recipes

__all__ = [
    "Embedder",
    "Filler",
    "Generator",
    "Predictor",
    "Store",
    "Tokenizer",
    "convert",
    "distill",
    "embed",
    "evaluate",
    "fill",
    "finetune",
    "generate",
    "learn_tokenizer",
    "load",
    "perplexity",
    "predict",
    "prepare",
    "pretrain",
    "recipes",
    "save",
    "show_machine",
    "show_masks",
    "show_model",
    "show_progress",
    "show_store",
    "show_tokens",
    "verify",
]

_MODULES = {
    "Embedder": "polyseme.embedding.embedder",
    "Filler": "polyseme.generation.filling",
    "Generator": "polyseme.generation.generating",
    "Predictor": "polyseme.tasks.predictor",
    "Store": "polyseme.text.store",
    "Tokenizer": "polyseme.text.tokenizer",
    "convert": "polyseme.checkpoints.convert",
    "distill": "polyseme.training.distilling",
    "embed": "polyseme.embedding.embedding",
    "evaluate": "polyseme.tasks.predicting",
    "fill": "polyseme.generation.filling",
    "finetune": "polyseme.tasks.finetuning",
    "generate": "polyseme.generation.generating",
    "learn_tokenizer": "polyseme.text.tokenizer_learning",
    "load": "polyseme.checkpoints.loading",
    "perplexity": "polyseme.evaluation.perplexity",
    "predict": "polyseme.tasks.predicting",
    "prepare": "polyseme.text.preparing",
    "pretrain": "polyseme.training.pretraining",
    "recipes": "polyseme.training.recipes",
    "save": "polyseme.checkpoints.saving",
    "show_machine": "polyseme.inspection.machine",
    "show_masks": "polyseme.inspection.masks",
    "show_model": "polyseme.inspection.model",
    "show_progress": "polyseme.cli.reporter",
    "show_store": "polyseme.inspection.store",
    "show_tokens": "polyseme.inspection.tokens",
    "verify": "polyseme.inspection.verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'polyseme' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
