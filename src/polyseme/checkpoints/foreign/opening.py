"""A model folder of any known kind, opened: settings and tensors as transformers would name them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from polyseme.checkpoints.filling import listed
from polyseme.checkpoints.foreign.layouts import LAYOUTS, Layout, layout_of
from polyseme.checkpoints.foreign.translating import Template, translate
from polyseme.checkpoints.json_files import read_object
from polyseme.checkpoints.notes import say_once
from polyseme.checkpoints.other_kinds import refuse_other_kinds
from polyseme.checkpoints.weights import READERS, Stored, open_weights
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer

UNSAID = "transformers"
"""Key of a foreign settings file under which we write those of config.json that it cannot say."""


@dataclass(frozen=True)
class Container:
    """A kind of file that holds tensors."""

    patterns: tuple[str, ...]
    """What its name looks like, below the folder; the first pattern that is found counts."""
    opener: str
    """Import path of the function from the file to its tensors."""
    words: str
    """What a reader of errors knows it by."""


CONTAINERS = {
    "tensorflow": Container(
        ("*.index",), "polyseme.checkpoints.readers.tensorflow:open_checkpoint", "a TensorFlow checkpoint"
    ),
    "old-tensorflow": Container(
        ("*.ckpt", "*.ckpt-[0-9]*[0-9]"),
        "polyseme.checkpoints.readers.tensorflow:refuse_old_checkpoint",
        "a TensorFlow checkpoint of version 1",
    ),
    "arrays": Container(
        ("params_shapes.json",), "polyseme.checkpoints.readers.openai_arrays:open_arrays", "OpenAI's arrays"
    ),
    "paddle": Container(
        ("params/word_embedding", "word_embedding"),
        "polyseme.checkpoints.readers.paddle:open_parameters",
        "Paddle's parameters",
    ),
    "pdparams": Container(
        ("*.pdparams",),
        "polyseme.checkpoints.readers.numpy_pickles:open_pickled_arrays",
        "Paddle's parameters",
    ),
    "torch": Container(
        ("*.bin", "*.bin-[0-9]*", "*.pt"), "polyseme.checkpoints.weights:open_torch", "a pickle of torch"
    ),
}
"""In the order in which a folder is searched; pickles come last."""


OLD_SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "bert_config.json": ("bert", {}),
    "albert_config.json": ("albert", {}),
    "xlnet_config.json": ("xlnet", {"n_token": "vocab_size"}),
}
"""Settings files beside weights of PyTorch, as HIT and others publish them: the family, and the keys of
config.json by theirs where they differ."""


@dataclass(frozen=True)
class Opened:
    """The content of a folder in the words of transformers."""

    plain: dict[str, Any]
    """What its config.json says or would say."""
    where: Path
    """The file that says it, or else the folder."""
    stored: dict[str, Stored]
    """The tensors by their published names."""
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Tensors that hold no weights of the model, by what they are."""
    layout: str = "transformers"
    """The name of the layout."""


def open_folder(folder: Path, *, layout: str | None = None, settings: Path | None = None) -> Opened:
    """Open a folder by its `layout`, or by the first that fits; `settings` is a file that lies elsewhere.

    Raises `CheckpointError` where nothing fits or something is damaged.
    """
    if layout == "transformers" or (layout is None and _is_native(folder)):
        return _opened_natively(folder)
    found = _find(folder, layout)
    if found is None:
        return _opened_natively(folder)
    name, chosen, foreign = found
    stored, left = translate(chosen, foreign)
    file = settings or _settings_file(folder, chosen)
    where = file or folder
    said = {} if file is None else chosen.read(file)
    plain = published_settings(chosen, said, foreign, stored, where)
    return Opened(plain, where, stored, left, name)


def _is_native(folder: Path) -> bool:
    """Whether a folder has what transformers writes; only pickles of UER-py may have the same names."""
    files = [name for name in READERS for name in (name, f"{name}.index.json") if (folder / name).is_file()]
    settings = _published_settings_file(folder)
    if not files or not settings.is_file():
        return False
    named = settings.name == "config.json" and "model_type" in read_object(settings)
    return files != ["pytorch_model.bin"] or named


def _opened_natively(folder: Path) -> Opened:
    if not any((folder / name).is_file() for kind in READERS for name in (kind, f"{kind}.index.json")):
        refuse_other_kinds(folder)
    path = _published_settings_file(folder)
    if path.name == "config.json":
        return Opened(read_object(path), path, open_weights(folder))
    family, names = OLD_SETTINGS[path.name]
    settings = {names.get(key, key): value for key, value in read_object(path).items()}
    say_once(f"{path} is read as the config.json of a {family}")
    return Opened({"model_type": family, **settings}, path, open_weights(folder))


def _published_settings_file(folder: Path) -> Path:
    """config.json, or without it the one file that had its place before families shared one name."""
    old = [folder / name for name in OLD_SETTINGS if (folder / name).is_file()]
    if (folder / "config.json").is_file() or not old:
        return folder / "config.json"
    if len(old) > 1:
        raise CheckpointError(
            f"{folder} has no config.json, but {listed(path.name for path in old)}; "
            "rename the one that is meant to config.json and name its family there, as model_type"
        )
    return old[0]


def _find(folder: Path, layout: str | None) -> tuple[str, Layout, dict[str, Stored]] | None:
    """The layout that fits a folder, and the foreign tensors; None where the folder has no such file."""
    wanted = None if layout is None else layout_of(layout)
    for kind, container in CONTAINERS.items():
        if wanted is not None and wanted.container != kind:
            continue
        file = _file(folder, container)
        if file is None:
            continue
        refuse_lfs_pointer(file, CheckpointError)
        tensors = _opener(container)(file)
        for name in [layout] if layout else LAYOUTS:
            candidate = layout_of(name)
            if candidate.container == kind:
                renamed = _renamed(candidate, tensors)
                if all(mark in renamed for mark in candidate.marks):
                    return name, candidate, renamed
        if layout is None and file.name in READERS and _published_settings_file(folder).is_file():
            return None
        known = layout or ", ".join(name for name in LAYOUTS if layout_of(name).container == kind)
        raise CheckpointError(
            f"{file} is {container.words} of no layout that polyseme reads ({known}); "
            f"it holds {listed(tensors) or 'no tensor'}"
        )
    if wanted is not None:
        raise CheckpointError(f"{folder} holds nothing like {CONTAINERS[wanted.container].words}")
    return None


def _file(folder: Path, container: Container) -> Path | None:
    """The one file of a kind in a folder."""
    for pattern in container.patterns:
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(files) > 1 and pattern == "*.index":
            files = _latest(folder, files)
        if len(files) > 1:
            raise CheckpointError(
                f"{folder} holds several files like {container.words}: {listed(p.name for p in files)}; "
                "put the one that is meant into a folder of its own"
            )
        if files:
            return files[0]
    return None


def _latest(folder: Path, files: list[Path]) -> list[Path]:
    """Of several checkpoints the one that TensorFlow's own note names as the last, if there is a note."""
    note = folder / "checkpoint"
    if not note.is_file() or note.stat().st_size > 1 << 20:
        return files
    named = re.search(
        r'^model_checkpoint_path:\s*"([^"]*)"', note.read_text("utf-8", "replace"), re.MULTILINE
    )
    # The note often has the path of the machine that wrote it; only the name counts.
    name = f"{named[1].rpartition('/')[2]}.index" if named else ""
    return [path for path in files if path.name == name] or files


def _opener(container: Container) -> Callable[[Path], dict[str, Stored]]:
    module, name = container.opener.split(":")
    opener: Callable[[Path], dict[str, Stored]] = getattr(import_module(module), name)
    return opener


def _renamed(layout: Layout, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors with old spellings of names made new."""
    renamed = dict(tensors)
    for old, new in layout.old_names.items():
        template = Template(new)
        for numbers in list(Template(old).matches(tensors)):
            tensor = renamed.pop(Template(old).fill(numbers))
            if template.fill(numbers) in renamed:
                raise CheckpointError(
                    f"{tensor.file} holds {template.fill(numbers)} and {tensor.name}, two names of one tensor"
                )
            renamed[template.fill(numbers)] = tensor
    return renamed


def _settings_file(folder: Path, layout: Layout) -> Path | None:
    """The settings file of a folder; None where the layout has none, or does without."""
    for pattern in layout.settings:
        files = [path for path in sorted(folder.glob(pattern)) if not path.name.startswith("tokenizer")]
        if len(files) > 1:
            raise CheckpointError(
                f"{folder} holds several settings files: {listed(path.name for path in files)}; "
                "say which one is meant with settings= (--settings)"
            )
        if files:
            return files[0]
    return None


def published_settings(
    layout: Layout,
    settings: dict[str, Any],
    foreign: Mapping[str, Stored],
    stored: Mapping[str, Stored],
    where: Path,
) -> dict[str, Any]:
    """The content of config.json."""
    unsaid = settings.get(UNSAID, {})
    plain = {**layout.written, **{layout.names.get(key, key): value for key, value in settings.items()}}
    for key, meanings in layout.values.items():
        if isinstance(plain.get(key), str):
            plain[key] = meanings.get(plain[key], plain[key])
    if isinstance(unsaid, dict):
        plain |= unsaid
    for key, (name, dimension) in layout.sizes.items():
        if key not in plain and name in foreign and dimension < len(foreign[name].shape):
            plain[key] = foreign[name].shape[dimension]
    for key, template in layout.counts.items():
        if key not in plain:
            plain[key] = sum(1 for _ in Template(template).matches(foreign))
    shapes = {name: tensor.shape for name, tensor in foreign.items()}
    try:
        plain |= layout.finish(plain, shapes)
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{where}: its settings cannot be used: {error}") from error
    class_name = next(name for mark, name in layout.architectures if not mark or mark in stored)
    return plain | {"model_type": layout.family, "architectures": [class_name]}
