"""Folders without weights that we read: what they hold instead, and the way out."""

from pathlib import Path

from polyseme.checkpoints.json_files import read_object
from polyseme.errors import CheckpointError

_KINDS = {
    ".gguf": "GGUF, of llama.cpp",
    ".onnx": "an ONNX graph",
    ".h5": "of Keras",
    ".msgpack": "of Flax",
    ".tflite": "of TensorFlow Lite",
    ".mlmodel": "of Core ML",
    ".ot": "of rust-bert",
}
"""Endings of weights that other libraries read."""


def refuse_other_kinds(folder: Path) -> None:
    """Raise `CheckpointError` for a folder whose weights are an adapter, or of a kind that is not read."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = read_object(adapter).get("base_model_name_or_path") or "its base model"
        raise CheckpointError(
            f"{folder} holds an adapter (LoRA) of {base}, not a whole model; merge the two with peft "
            "(merge_and_unload), save the result, and name that folder"
        )
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    variants = [name for name in files if name.endswith(".safetensors") and name != "task.safetensors"]
    if len(variants) == 1:
        raise CheckpointError(
            f"{folder} has no model.safetensors, but {variants[0]}; "
            "rename it to model.safetensors if it holds this model's weights"
        )
    if variants:
        raise CheckpointError(
            f"{folder} has no model.safetensors, but {', '.join(variants[:4])}; "
            "rename the one that is meant to model.safetensors"
        )
    for name in files:
        if kind := _KINDS.get(Path(name).suffix):
            raise CheckpointError(
                f"{folder} holds {name} ({kind}), which polyseme does not read; "
                "fetch model.safetensors or pytorch_model.bin of the same model"
            )
