"""Random models of transformers, written as TensorFlow's projects publish theirs.

The names are derived from transformers' by replacing words, not by the library's tables, so that a table with
two names interchanged is found out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from foreign_models import redraw
from torch import Tensor

from polyseme.checkpoints.readers.tensorflow import checkpoint_files

Foreign = dict[str, Tensor]


def write(folder: Path, tensors: Mapping[str, Tensor], prefix: str, **how: Any) -> Path:
    """The folder with a checkpoint in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in checkpoint_files(tensors, prefix, **how).items():
        (folder / name).write_bytes(content)
    return folder


def with_slots(tensors: Foreign, *endings: str) -> Foreign:
    """The tensors, and beside each what an optimizer keeps of it, and a count of steps."""
    slots = {
        f"{name}{end}": torch.full_like(tensor, 0.5) for name, tensor in tensors.items() for end in endings
    }
    return {**tensors, **slots, "global_step": torch.tensor(12)}


def random_model(kind: str, seed: int = 0, **settings: Any) -> Any:
    """One of transformers' models with every parameter redrawn."""
    import transformers

    config_class = getattr(transformers, kind).config_class
    model = getattr(transformers, kind)(config_class(**settings)).eval()
    redraw(model, seed)
    return model


def own_tensors(model: Any) -> dict[str, Tensor]:
    """The tensors that transformers would save: each once, under its first name."""
    seen: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen[tensor.data_ptr()] = name
            tensors[name] = tensor
    return tensors


def kernels(name: str, tensor: Tensor, *, norm: bool) -> tuple[str, Tensor]:
    """The last word of a name as Google's code spells it, and its matrices inputs by outputs."""
    if norm:
        return re.sub(r"weight$", "gamma", re.sub(r"bias$", "beta", name)), tensor
    if name.endswith("weight"):
        return name.removesuffix("weight") + "kernel", tensor.t()
    return name, tensor


def bert(model: Any) -> Foreign:
    return dict(_bert(*item) for item in own_tensors(model).items())


def _bert(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if name == "cls.predictions.bias":
        return "cls/predictions/output_bias", tensor
    if name.startswith("cls.seq_relationship."):
        ending = {"weight": "output_weights", "bias": "output_bias"}[name.rpartition(".")[2]]
        return f"cls/seq_relationship/{ending}", tensor
    if name.startswith("classifier."):
        return {"weight": "output_weights", "bias": "output_bias"}[name.rpartition(".")[2]], tensor
    if "_embeddings." in name:
        return name.removesuffix(".weight").replace(".", "/"), tensor
    name, tensor = kernels(name, tensor, norm="LayerNorm" in name)
    return re.sub(r"layer\.(\d+)", r"layer_\1", name).replace(".", "/"), tensor


_ALBERT = [
    (
        r"^albert\.encoder\.albert_layer_groups\.0\.albert_layers\.0\.",
        "bert.encoder.transformer.group_0.inner_group_0.",
    ),
    (r"^albert\.pooler\.", "bert.pooler.dense."),
    (r"^albert\.", "bert."),
    (r"full_layer_layer_norm", "LayerNorm_1"),
    (r"attention\.LayerNorm", "LayerNorm"),
    (r"attention\.dense", "attention_1.output.dense"),
    (r"attention\.(query|key|value)", r"attention_1.self.\1"),
    (r"ffn_output", "ffn_1.intermediate.output.dense"),
    (r"ffn\.", "ffn_1.intermediate.dense."),
    (r"^predictions\.(dense|LayerNorm)", r"cls.predictions.transform.\1"),
    (r"^predictions\.bias", "cls.predictions.bias"),
    (r"^sop_classifier\.classifier", "cls.seq_relationship"),
]


def albert(model: Any) -> Foreign:
    foreign = {}
    for name, tensor in own_tensors(model).items():
        for old, new in _ALBERT:
            name = re.sub(old, new, name)
        name, tensor = _bert(name, tensor)
        foreign[name] = tensor
    return foreign


def electra(discriminator: Any, generator: Any) -> Foreign:
    """One checkpoint for both; they share the embeddings."""
    foreign = {}
    for name, tensor in own_tensors(discriminator).items():
        name, tensor = _bert(name.replace("dense_prediction", "dense_1"), tensor)
        foreign[name] = tensor
    for name, tensor in own_tensors(generator).items():
        if name.startswith("electra.embeddings."):
            continue
        if name == "generator_lm_head.bias":
            foreign["generator_predictions/output_bias"] = tensor
            continue
        name, tensor = _bert(name, tensor)
        foreign[re.sub("^electra/", "generator/", name)] = tensor
    return foreign


def xlnet(model: Any) -> Foreign:
    tensors = own_tensors(model)
    layers = model.config.n_layer
    foreign = {
        "model/transformer/word_embedding/lookup_table": tensors["transformer.word_embedding.weight"],
        "model/transformer/mask_emb/mask_emb": tensors["transformer.mask_emb"],
        "model/lm_loss/bias": tensors["lm_loss.bias"],
    }
    for name in ("r_w_bias", "r_r_bias", "r_s_bias", "seg_embed"):
        rows = [tensors[f"transformer.layer.{layer}.rel_attn.{name}"] for layer in range(layers)]
        foreign[f"model/transformer/{name}"] = torch.stack(rows)
    for layer in range(layers):
        theirs, ours = f"model/transformer/layer_{layer}", f"transformer.layer.{layer}"
        for name in "qkvor":
            foreign[f"{theirs}/rel_attn/{name}/kernel"] = tensors[f"{ours}.rel_attn.{name}"]
        for part in ("rel_attn", "ff"):
            foreign[f"{theirs}/{part}/LayerNorm/gamma"] = tensors[f"{ours}.{part}.layer_norm.weight"]
            foreign[f"{theirs}/{part}/LayerNorm/beta"] = tensors[f"{ours}.{part}.layer_norm.bias"]
        for name in ("layer_1", "layer_2"):
            foreign[f"{theirs}/ff/{name}/kernel"] = tensors[f"{ours}.ff.{name}.weight"].t()
            foreign[f"{theirs}/ff/{name}/bias"] = tensors[f"{ours}.ff.{name}.bias"]
    return foreign


def gpt2(model: Any) -> Foreign:
    foreign = {}
    for name, tensor in own_tensors(model).items():
        name = re.sub(r"^transformer\.h\.(\d+)\.", r"model/h\1/", name).replace("transformer.", "model/")
        if "/ln_" in name:
            name = name.replace(".weight", "/g").replace(".bias", "/b")
        elif ".c_" in name:
            tensor = tensor[None] if name.endswith("weight") else tensor
            name = name.replace(".weight", "/w").replace(".bias", "/b").replace(".", "/")
        foreign[name.removesuffix(".weight")] = tensor
    return foreign


def t5(model: Any) -> Foreign:
    foreign = {}
    for name, tensor in own_tensors(model).items():
        name = name.removesuffix(".weight")
        name = re.sub(r"block\.(\d+)\.layer\.(\d+)", lambda n: f"block_{n[1]:>03}.layer_{n[2]:>03}", name)
        if name == "shared":
            name = "shared.embedding"
        elif "layer_norm" in name:
            name += ".scale"
        else:
            tensor = tensor.t()
            if "DenseReluDense" in name:
                name += ".kernel"
        name = "decoder.logits.kernel" if name == "lm_head" else name
        foreign[name.replace(".", "/")] = tensor
    return foreign
