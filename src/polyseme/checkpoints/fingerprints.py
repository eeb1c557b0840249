"""What tells one model from another, whatever its folder is called: SHA-256 over what it is made of."""

import hashlib
from collections.abc import Mapping

from torch import nn

from polyseme.checkpoints.model import Model
from polyseme.records import to_json, to_plain


def fingerprint(backbone: nn.Module, heads: Mapping[str, nn.Module]) -> str:
    """SHA-256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for part, module in (("", backbone), *sorted(heads.items())):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def reader_fingerprint(model: Model) -> str:
    """SHA-256 over all that decides what the model makes of a text: choices, weights, tokenizer, prompt."""
    digest = hashlib.sha256(fingerprint(model.backbone, {}).encode())
    digest.update(to_json(to_plain(model.backbone.config)))
    digest.update(to_json({"prompts": model.card.prompts, "prompt": model.card.prompt}))
    for number, module in enumerate(model.after_pooling):
        digest.update(f"{number} {module}".encode() + fingerprint(module, {}).encode())
    for name, content in sorted(model.tokenizer.files().items() if model.tokenizer else ()):
        digest.update(name.encode() + content)
    return digest.hexdigest()
