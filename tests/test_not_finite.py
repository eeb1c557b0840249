"""Not one number that is NaN or infinite leaves the library unnoticed."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import small_store
from safetensors.torch import load_file, save_file
from small_models import small_model
from test_finetuning import reviews
from test_pretraining import SMALL

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import save
from polyseme.embedding.embedder import Embedder
from polyseme.embedding.embedding import embed
from polyseme.errors import CheckpointError, NotFiniteError
from polyseme.evaluation.perplexity import perplexity
from polyseme.generation.filling import Filler
from polyseme.generation.generating import Generator
from polyseme.integrity import accept_folder
from polyseme.models.finite import first_not_finite, is_finite
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import evaluate, predict
from polyseme.training import loop
from polyseme.training.loop import LossError
from polyseme.training.pretraining import pretrain
from polyseme.training.state import newest_state

TEXT = "酒店的房间很舒适，服务也好。"


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_number_that_is_not_finite_is_found_anywhere_and_large_ones_are_none(kind: torch.dtype) -> None:
    largest = torch.finfo(kind).max
    assert is_finite(torch.full((3, 5), largest, dtype=kind))  # whose sum is infinite
    assert all(map(is_finite, (torch.arange(5), torch.zeros(0))))
    for value in (math.nan, math.inf, -math.inf):
        for place in range(15):
            tensor = torch.full((3, 5), largest, dtype=kind)
            tensor.view(-1)[place] = value
            assert not is_finite(tensor)
    assert first_not_finite({"a": torch.ones(2), "b": torch.tensor([1.0, -math.inf])}) == "b holds -inf"


def damage(folder: Path, name: str, value: float, *, all_of_it: bool = False) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[slice(None) if all_of_it else 3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    accept_folder(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loading_names_the_tensor_that_is_not_finite(tmp_path: Path, value: float) -> None:
    folder = small_model(tmp_path, "bert", num_layers=1)
    name = "bert.encoder.layer.0.attention.self.key.weight"
    names = load_file(folder / "model.safetensors")
    damage(folder, name if name in names else name.removeprefix("bert."), value)
    with pytest.raises(
        CheckpointError, match=rf"model\.safetensors: .*self\.key\.weight holds {value}; the weights"
    ):
        load(folder)


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    model = load(small_model(tmp_path, "bert", num_layers=1))
    next(model.backbone.parameters()).data.view(-1)[0] = math.nan
    with pytest.raises(CheckpointError, match="holds nan, so the model is not saved"):
        save(model, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def overflowing(model: Model) -> Model:
    """The model with projections so large that products overflow, though each of their numbers is finite."""
    for name, parameter in model.backbone.named_parameters():
        if "feedforward" in name and name.endswith("weight"):
            parameter.data.fill_(1e30)
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_embedding_names_the_text_whose_vector_is_not_finite(tmp_path: Path, precision: str) -> None:
    model = overflowing(load(small_model(tmp_path, "bert", num_layers=1)))
    save(model, tmp_path / "large")
    embedder = Embedder(model, precision=precision, threads=1)
    with pytest.raises(
        NotFiniteError, match=f"text '{TEXT}': the vector in .* holds (nan|-?inf); the model's weights"
    ):
        embedder.sentences([TEXT])
    for read in (embedder.tokens, embedder.words):
        with pytest.raises(NotFiniteError, match=r"the vectors of text 1 in .* are not finite"):
            read([TEXT])
    (tmp_path / "texts.txt").write_text(f"{TEXT}\n好\n", encoding="utf-8")
    with pytest.raises(NotFiniteError, match=TEXT):
        embed(tmp_path / "texts.txt", model=tmp_path / "large", out=tmp_path / "v.npy", precision=precision)
    assert not (tmp_path / "v.npy").exists()


def test_a_vector_whose_length_overflows_is_named_too(tmp_path: Path) -> None:
    model = load(small_model(tmp_path, "bert", num_layers=1))
    last = [p for name, p in model.backbone.named_parameters() if "norm" in name and name.endswith("weight")][
        -1
    ]
    last.data.fill_(1e30)
    embedder = Embedder(model, normalize=True, threads=1)
    with pytest.raises(NotFiniteError, match="the length of the vector holds inf"):
        embedder.sentences([TEXT])


def test_only_the_text_that_overflows_is_named(tmp_path: Path) -> None:
    model = load(small_model(tmp_path, "bert", num_layers=1))
    assert model.tokenizer is not None
    model.backbone.embeddings.tokens.weight.data[model.tokenizer.encode("差").ids[0]] = 3e38
    embedder = Embedder(model, threads=1)
    assert np.isfinite(embedder.sentences([TEXT, "好"])).all()
    with pytest.raises(NotFiniteError, match="text '房间差'"):
        embedder.sentences([TEXT, "好", "房间差", "贵"])


def test_filling_writing_and_perplexity_name_what_is_not_finite(tmp_path: Path) -> None:
    masked = overflowing(
        load(small_model(tmp_path, "bert", num_layers=1), heads=["masked-lm"], fresh=["masked-lm"])
    )
    with pytest.raises(NotFiniteError, match="text '酒店___': the scores of the hidden tokens hold nan"):
        Filler(masked, threads=1).fill("酒店___")
    save(masked, tmp_path / "masked")
    (tmp_path / "text.txt").write_text(f"{TEXT}\n", encoding="utf-8")
    with pytest.raises(NotFiniteError, match="the loss of document 1 is not finite"):
        perplexity(tmp_path / "text.txt", model=tmp_path / "masked", threads=1)
    causal = overflowing(load(small_model(tmp_path, "gpt2", num_layers=1), heads=["causal-lm"]))
    for strategy in ("greedy", "sample", "beam"):
        with pytest.raises(NotFiniteError, match="text '酒店': the scores of the next token hold"):
            Generator(causal, strategy=strategy, threads=1, max_new_tokens=9).generate(["酒店"])


def test_predicting_and_evaluating_name_the_text(tmp_path: Path) -> None:
    reviews(tmp_path / "train.tsv", 16, seed=0)
    small_model(tmp_path, "bert", num_layers=1)
    options: dict[str, Any] = {"model": tmp_path / "bert", "threads": 1, "epochs": 1}
    finetune(
        "classification",
        train=tmp_path / "train.tsv",
        dev=tmp_path / "train.tsv",
        out=tmp_path / "ft",
        **options,
    )
    names = [name for name in load_file(tmp_path / "ft" / "model.safetensors") if "intermediate" in name]
    damage(tmp_path / "ft", next(name for name in names if name.endswith("weight")), 1e30, all_of_it=True)
    damage(tmp_path / "ft", "classifier.weight", 3e38, all_of_it=True)
    for ask in (
        lambda: predict(tmp_path / "train.tsv", model=tmp_path / "ft", out=tmp_path / "a.jsonl", threads=1),
        lambda: evaluate("classification", tmp_path / "train.tsv", model=tmp_path / "ft", threads=1),
    ):
        with pytest.raises(NotFiniteError, match=r"text '.*': the outputs for example \d+ are not finite"):
            ask()
    assert not (tmp_path / "a.jsonl").exists()


@pytest.fixture
def bad_step(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of the steps whose gradient is made NaN."""
    bad: set[int] = set()
    sound = loop.gradient_norm
    seen = {"steps": 0}

    def norm(parameters: list[torch.Tensor], clip: float | None) -> float:
        seen["steps"] += 1
        value = sound(parameters, clip)
        if seen["steps"] in bad:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.fill_(math.nan)
            return math.nan
        return value

    monkeypatch.setattr(loop, "gradient_norm", norm)
    return bad


def test_pre_training_stops_at_a_step_that_is_not_finite_and_its_last_state_goes_on(
    tmp_path: Path, bad_step: set[int]
) -> None:
    store = small_store(tmp_path)
    threads = torch.get_num_threads()
    options: dict[str, Any] = {
        "recipe": "modernbert-wwm",
        "store": store.folder,
        "size": "tiny",
        "threads": 1,
        "steps": 6,
        "change": SMALL,
        "save_steps": 2,
    }
    pretrain(**options, out=tmp_path / "sound")
    sound = (tmp_path / "sound" / "model.safetensors").read_bytes()
    bad_step.add(6 + 4)
    with pytest.raises(
        LossError, match=r"step 4: the norm of the gradient is nan.*step-00000002 is kept and can be resumed"
    ):
        pretrain(**options, out=tmp_path / "run")
    found = newest_state(tmp_path / "run" / "state")
    assert found is not None
    assert found.name == "step-00000002"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    pretrain(**options, out=tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == sound
    torch.set_num_threads(threads)


def test_a_skipped_step_is_counted_over_a_resume(tmp_path: Path, bad_step: set[int]) -> None:
    store = small_store(tmp_path)
    options: dict[str, Any] = {
        "recipe": "modernbert-wwm",
        "store": store.folder,
        "size": "tiny",
        "threads": 1,
        "steps": 6,
        "change": SMALL,
        "save_steps": 2,
        "out": tmp_path / "run",
    }
    bad_step |= {1, 4}
    with (
        pytest.warns(
            UserWarning, match="step 1: the loss or its gradient was not finite; the step is skipped"
        ),
        pytest.raises(LossError, match=r"step 4: "),
    ):
        pretrain(**options, skip_non_finite_steps=1)
    bad_step.clear()
    bad_step.add(5)  # the first step of the next call
    with pytest.raises(LossError, match=r"step 3: "):
        pretrain(**options, skip_non_finite_steps=1)
    bad_step.add(6)
    with pytest.warns(UserWarning, match="step 3: "):
        outcome = pretrain(**options, skip_non_finite_steps=2)
    assert outcome.finished


def test_fine_tuning_stops_at_a_step_that_is_not_finite_and_goes_on(
    tmp_path: Path, bad_step: set[int]
) -> None:
    reviews(tmp_path / "train.tsv", 24, seed=0)
    small_model(tmp_path, "bert", num_layers=1)
    options: dict[str, Any] = {
        "train": tmp_path / "train.tsv",
        "dev": tmp_path / "train.tsv",
        "model": tmp_path / "bert",
        "threads": 1,
        "epochs": 2,
        "batch_size": 8,
        "save_steps": 2,
        "precision": "fp32",
    }
    finetune("classification", out=tmp_path / "sound", **options)
    bad_step.add(6 + 4)
    with pytest.raises(
        LossError, match=r"step 4: the norm of the gradient is nan.*step-00000002 is kept and can be resumed"
    ):
        finetune("classification", out=tmp_path / "ft", **options)
    finetune("classification", out=tmp_path / "ft", skip_non_finite_steps=3, **options)
    sound, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("sound", "ft"))
    assert sound == again
