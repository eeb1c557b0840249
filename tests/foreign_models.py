"""Small random models of transformers, saved as folders, for the tests of checkpoints."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.models.batch import Batch

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"的一是在不了有和人这中大为上个国我以要他",
    "a",
    "##a",
    "b",
]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


CLEAN = ("missing_keys", "unexpected_keys", "mismatched_keys")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks of this size only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def turned_without_rounding(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    def turn(states: Tensor) -> Tensor:
        left, right = states.chunk(2, dim=-1)
        return states * cos.unsqueeze(unsqueeze_dim) + torch.cat((-right, left), -1) * sin.unsqueeze(1)

    return turn(query), turn(key)


@pytest.fixture
def exact_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference rounds queries and keys to float32 before it turns them, even in float64."""
    module = pytest.importorskip("transformers.models.modernbert.modeling_modernbert")
    monkeypatch.setattr(module, "apply_rotary_pos_emb", turned_without_rounding)


def redraw(module: nn.Module, seed: int) -> None:
    """Every parameter from N(0, 0.2): with norms at 1 and biases at 0 half of all mistakes stay hidden."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


_MARKS = {"bos_token_id": 2, "eos_token_id": 3}
OWN: dict[str, dict[str, Any]] = {
    "ModernBert": {"global_attn_every_n_layers": 1, "cls_token_id": 2, "sep_token_id": 3, **_MARKS},
    "Roberta": _MARKS,
    "XLMRoberta": _MARKS,
    "Albert": {"embedding_size": 12, **_MARKS},
    "Electra": {"embedding_size": 12},
}
"""What a small configuration of a family says beside the sizes, by the name of its configuration class."""


def foreign(name: str, seed: int = 0, **changes: Any) -> Any:
    """One of transformers' models by the name of its class, with every parameter redrawn."""
    import transformers

    family = re.split("For|Model$", name)[0]
    settings: dict[str, Any] = SIZES | {"pad_token_id": 0} | OWN.get(family, {}) | changes
    if family == "DistilBert":
        settings["hidden_dim"] = settings.pop("intermediate_size")
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, name)(config).eval()
    redraw(model, seed)
    return model


def foreign_folder(
    folder: Path, name: str, seed: int = 0, *, tokenizer: bool = False, **changes: Any
) -> Path:
    """The folder that transformers writes for such a model."""
    foreign(name, seed, **changes).save_pretrained(folder)
    if tokenizer:
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def change_settings(folder: Path, **changes: Any) -> None:
    """Rewrite keys of a folder's config.json; None takes a key out."""
    path = folder / "config.json"
    plain = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))


def padded_batch(seed: int, vocab_size: int, types: int, longest: int) -> Batch:
    """Rows of unlike length, padded on the right."""
    rng = np.random.default_rng(seed)
    rows, length = int(rng.integers(2, 5)), int(rng.integers(3, longest + 1))
    mask = np.arange(length) < rng.integers(1, length + 1, size=(rows, 1))
    mask[0] = True
    return Batch(
        input_ids=torch.from_numpy(rng.integers(0, vocab_size, (rows, length))),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=torch.from_numpy(rng.integers(0, types, (rows, length))) if types else None,
    )


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    """The batch as transformers takes it."""
    assert batch.attention_mask is not None
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    return inputs if batch.token_type_ids is None else inputs | {"token_type_ids": batch.token_type_ids}


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert ours.dtype == reference.dtype
    bound = 1e-9 if ours.dtype == torch.float64 else 1e-5 * reference.abs().max().item()
    assert (ours - reference).abs().max().item() <= bound


def read_back(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The folder in transformers, where nothing may be missing or left over."""
    import transformers

    found, info = getattr(transformers, kind).from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert {key: list(info[key]) for key in CLEAN} == {key: [] for key in CLEAN}
    return found.eval()


LOGITS = {
    "masked-lm": ("prediction_logits", "logits"),
    "next-sentence": ("seq_relationship_logits", "logits"),
    "sentence-order": ("sop_logits",),
    "replaced-token": ("logits",),
}
"""What transformers calls a head's scores: in a model that has other heads too, or alone."""


def assert_agree(ours: Model, theirs: Any, batch: Batch, *, real_only: bool = False) -> None:
    """The same logits of every head and the same states of every layer.

    With `real_only` no states of padding are compared: in a local layer it may have nothing to see.
    """
    real = batch.attention_mask if real_only else ...
    with torch.no_grad():
        expected = theirs(**inputs_of(batch), output_hidden_states=True)
        states = ours.backbone(batch, every_layer=True)
        given = {"next-sentence": (states.pooled,), "sentence-order": (states.pooled,)}
        table = {"masked-lm": (states.last, ours.backbone.embeddings.tokens.weight)}
        for name, head in ours.heads.items():
            scores = head(*(given | table).get(name, (states.last,)))
            reference = next(expected[key] for key in LOGITS[name] if key in expected)
            assert_close(scores[real], reference[real])
    assert len(states.layers) == len(expected.hidden_states)
    for our_layer, their_layer in zip(states.layers, expected.hidden_states, strict=True):
        assert_close(our_layer[real], their_layer[real])


def assert_there_and_back(
    kind: str,
    heads: list[str],
    folder: Path,
    seed: int,
    *,
    longest: int,
    types: int,
    real_only: bool = False,
    **choices: Any,
) -> None:
    """A random model agrees in both precisions, and its folder comes back from ours bit for bit."""
    batch = padded_batch(seed, choices["vocab_size"], types, longest)
    for dtype in (torch.float32, torch.float64):
        theirs = foreign(kind, seed, **choices).to(dtype)
        theirs.save_pretrained(folder / f"theirs-{dtype}")
        ours = load(folder / f"theirs-{dtype}", heads=heads, dtype=dtype)
        assert_agree(ours, theirs, batch, real_only=real_only)

        save(ours, folder / f"ours-{dtype}")
        back = read_back(kind, folder / f"ours-{dtype}", dtype)
        assert_agree(ours, back, batch, real_only=real_only)
        expected = theirs.state_dict()
        assert back.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in back.state_dict().items())
        again = load(folder / f"ours-{dtype}", heads=heads, dtype=dtype)
        assert again.backbone.config == ours.backbone.config
        assert files_of(again) == files_of(ours)


def assert_classifier(kind: str, folder: Path, *, types: int, **changes: Any) -> None:
    """A family's classifier keeps its scores and the names of its classes, there and back."""
    labels = ["好", "坏", "neutral"]
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    problem = "multi_label_classification"
    theirs = foreign(kind, 3, **changes, **named, problem_type=problem)
    theirs.save_pretrained(folder / "theirs")
    ours = load(folder / "theirs", heads=["classification"])
    assert (ours.card.labels, ours.card.problem) == (labels, "multi")
    save(ours, folder / "ours")
    back = read_back(kind, folder / "ours")
    assert (back.config.id2label, back.config.problem_type) == (named["id2label"], problem)
    assert load(folder / "ours", heads=["classification"]).card == ours.card
    batch = padded_batch(3, ours.backbone.config.vocab_size, types, 18)
    with torch.no_grad():
        scores = ours.heads["classification"](ours.backbone(batch), batch.attention_mask)
        for reference in (theirs, back):
            assert_close(scores, reference(**inputs_of(batch)).logits)


def encoder_choices(seed: int) -> dict[str, Any]:
    """A random small shape in the words of BERT's configuration, which most encoders share."""
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([1, 2, 4]))
    return {
        "vocab_size": int(rng.integers(30, 90)),
        "num_attention_heads": heads,
        "hidden_size": heads * int(rng.integers(4, 17)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "intermediate_size": int(rng.integers(8, 80)),
        "max_position_embeddings": int(rng.integers(12, 40)),
        "type_vocab_size": int(rng.integers(1, 5)),
        "hidden_act": ["gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh"][seed % 5],
        "layer_norm_eps": float(rng.choice([1e-12, 1e-5, 1e-3])),
        "pad_token_id": int(rng.integers(0, 30)),
    }


def assert_like_transformers(checked: str) -> None:
    """What `convert(check=True)` says it measured is within the promise for float32: 1e-5 of the states."""
    said = re.search(r"largest difference from transformers \S+: (\S+) where the states reach (\S+)", checked)
    assert said is not None, checked
    difference, largest = (float(number) for number in said.groups())
    assert 0 <= difference <= 1e-5 * max(1.0, largest), checked
