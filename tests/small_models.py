"""Small random models of our own, saved as folders, for the tests of what stands on models."""

from pathlib import Path
from typing import Any

import msgspec
import torch

from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.text.tokenizer import Tokenizer

CHARACTERS = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民"
    "得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社"
    "义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并"
    "提直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强"
    "放决西被干做必战先回则任取据处府店酒房间服务差脏慢贵赞舒适，。！？"
)
_OFFSET = {"embedding": {"position_offset": 1}, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "ernie": {"activation": "relu", "layer_norm_eps": 1e-5},
    "roberta": _OFFSET,
    "xlm-roberta": _OFFSET,
    "albert": {"embedding": {"size": 8}, "distinct_layers": 1},
    "electra": {"embedding": {"size": 8}, "pooler": False},
    "distilbert": {"type_vocab_size": 0, "pooler": False, "positions": "sinusoidal"},
    "gpt2": {
        "type_vocab_size": 0,
        "norm_position": "before",
        "layer_norm_eps": 1e-5,
        "embedding": {"norm": False},
        "attention": {"causal": True},
        "final_norm": True,
        "pooler": False,
    },
    "modernbert": {
        "type_vocab_size": 0,
        "gated": True,
        "bias": False,
        "norm_position": "before",
        "layer_norm_eps": 1e-5,
        "positions": "rotary",
        "attention": {"first_norm": False},
        "final_norm": True,
        "pooler": False,
        "initial": {"scaled_outputs": True},
    },
}


def characters(folder: Path) -> Tokenizer:
    """A WordPiece tokenizer of single characters, letters and digits."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*dict.fromkeys(CHARACTERS), *letters, *(f"##{letter}" for letter in letters)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return Tokenizer.load(folder)


def small_model(folder: Path, family: str = "modernbert", *, seed: int = 0, **changes: Any) -> Path:
    """A model folder of one family; `changes` are fields of its configuration, or of its card."""
    tokenizer = characters(folder / "characters")
    of_card = {name: changes.pop(name) for name in list(changes) if name in Card.__struct_fields__}
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 48,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **SHAPES[family],
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Transformer(msgspec.convert(shape, TransformerConfig))
        for parameter in backbone.parameters():  # Fresh biases and norms would hide mistakes.
            parameter.data += torch.randn_like(parameter) * 0.1
    target = folder / family
    save(Model(backbone, Card(family=family, **of_card), {}, tokenizer), target)
    return target
