"""Answers of a model of several tasks: one pass of the backbone for all that read the same tokens."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from polyseme.checkpoints.cards import how_made
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import load
from polyseme.devices import pick_device
from polyseme.errors import CheckpointError, DataError, NotFiniteError, SettingsError
from polyseme.models.batch import Batch, States
from polyseme.models.batching import batches_by_length
from polyseme.models.finite import naming_text
from polyseme.records import from_plain, nearest
from polyseme.runtime.backbone import CompiledBackbone
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.rows import by_token, check_finite, collate, joined, of_rows, outputs_of, side_by_side
from polyseme.tasks.runs_together import Together
from polyseme.tasks.settings import PredictSettings
from polyseme.tasks.skipping import leaving_out, parsed
from polyseme.tasks.task import Inventory, Outputs, Row, Task, make_task, settings_from_training
from polyseme.tasks.together import NAME
from polyseme.tasks.ways.full import fill
from polyseme.threads import default_threads, with_own_threads

_BLOCK = 2048
"""Texts held at once."""


def is_together(folder: Path) -> bool:
    """Whether a folder answers several tasks."""
    return how_made(folder).get("task") == NAME


class Part(NamedTuple):
    """One of the tasks."""

    task: Task[Any, Any]
    inventory: Inventory
    module: OnBackbone


class TogetherAnswerer:
    """A model of several tasks. Options are those of `PredictSettings`."""

    def __init__(self, name_or_folder: str | Path, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        unknown = next((name for name in given if name not in PredictSettings.__struct_fields__), None)
        if unknown is not None:
            raise SettingsError(
                f"{unknown} is a setting of one task, and {name_or_folder} answers several, each as it was "
                "trained; leave it out"
            )
        self.settings = settings = from_plain(given, PredictSettings, where="predict")
        folder = resolve(name_or_folder)
        made, model = how_made(folder), load(folder)
        if model.tokenizer is None:
            raise CheckpointError(f"{name_or_folder} has no tokenizer; fine-tune it first")
        self.tokenizer = model.tokenizer
        self.threads = settings.threads or default_threads()
        self.device = pick_device(settings.device)
        self.config = model.backbone.config
        positions = self.config.max_position_embeddings
        self.max_length = min(made.get("max_length") or positions, positions)
        self.parts: dict[str, Part] = {}
        for name, one in made["tasks"].items():
            task = make_task(one["task"], settings_from_training(one["task_settings"]))
            inventory = from_plain(one["inventory"], task.inventory_kind, where=str(name_or_folder))
            module = cast(OnBackbone, task.build(model.backbone, inventory, reading=one["reading"]))
            self.parts[name] = Part(task, inventory, module)
        whole = Together(model.backbone, {name: part.module for name, part in self.parts.items()})
        fill(cast(Any, whole), model.task_tensors, elsewhere=("backbone.",))
        whole.to(self.device).eval()
        self.backbone = CompiledBackbone(
            model.backbone, settings.precision, threads=self.threads, device=self.device
        )

    def part(self, name: str) -> Part:
        """One of the tasks by its name here."""
        if name not in self.parts:
            raise SettingsError(
                f"this model has no task {name!r}{nearest(name, list(self.parts))}; it answers "
                f"{', '.join(self.parts)}"
            )
        return self.parts[name]

    @with_own_threads
    def answers(self, examples: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """The answers by task to each text, of which `examples` has one example a task."""
        rows = {
            name: [self.rows(part, example) for example in examples[name]]
            for name, part in self.parts.items()
        }
        outputs = self._outputs(rows)
        of_tasks = {
            name: part.task.decode(outputs[name], examples[name], part.inventory)
            for name, part in self.parts.items()
        }
        return [dict(zip(of_tasks, of_text, strict=True)) for of_text in zip(*of_tasks.values(), strict=True)]

    def rows(self, part: Part, example: Any) -> list[Row]:
        """The rows of an example of one task."""
        rows = part.task.encode(example, self.tokenizer, part.inventory, max_length=self.max_length)
        return side_by_side(rows)

    @torch.inference_mode()
    def _outputs(self, rows: Mapping[str, list[list[Row]]]) -> dict[str, list[Outputs]]:
        """What every task's head says, each different row read once."""
        wanted: dict[tuple[bytes, bytes], list[tuple[str, int, int]]] = {}
        for name, of_task in rows.items():
            for number, of_example in enumerate(of_task):
                for place, row in enumerate(of_example):
                    wanted.setdefault(_key(row), []).append((name, number, place))
        distinct = [rows[name][number][place] for (name, number, place), *_ in wanted.values()]
        found: dict[tuple[str, int, int], Outputs] = {}
        lengths = [len(row.input_ids) for row in distinct]
        everyone = list(wanted.values())
        for numbers in batches_by_length(lengths, max_tokens=self.settings.batch_tokens):
            batch = collate(
                [distinct[n] for n in numbers], padding=self.tokenizer.filling_id, config=self.config
            ).to(self.device)
            states = self.backbone(batch)
            for name, part in self.parts.items():
                asked = [
                    (at, place) for at, n in enumerate(numbers) for place in everyone[n] if place[0] == name
                ]
                if asked:
                    own = [rows[name][number][row] for _, (_, number, row) in asked]
                    index = torch.tensor([at for at, _ in asked], device=self.device)
                    chosen = _chosen_batch(batch, index, own)
                    said = part.module.outputs(_chosen_states(states, index), chosen)
                    for (_, place), output in zip(asked, of_rows(said, own), strict=True):
                        found[place] = output
        outputs = {
            name: [
                joined([found[name, number, place] for place in range(len(of_example))])
                for number, of_example in enumerate(of_task)
            ]
            for name, of_task in rows.items()
        }
        for name, said_of_task in outputs.items():
            try:
                check_finite(said_of_task)
            except NotFiniteError as error:
                with naming_text(self.tokenizer.decode(rows[name][error.number or 0][0].input_ids)):
                    raise
        return {name: self.parts[name].module.settled(said) for name, said in outputs.items()}

    @with_own_threads
    def report(self, name: str, path: Path) -> dict[str, Any]:
        """The scores of one task on a labelled file."""
        part = self.part(name)
        examples = list(part.task.read(path, labelled=True))
        encoded = list(parsed(examples, lambda example: (example, self.rows(part, example))))
        examples = [example for example, _ in encoded]
        part.module.__dict__["backbone"] = self.backbone
        outputs = outputs_of(
            cast(Any, part.module),
            [rows for _, rows in encoded],
            padding=self.tokenizer.filling_id,
            batch_tokens=self.settings.batch_tokens,
            precision="fp32",
            device=self.device,
        )
        answers = part.task.decode(outputs, examples, part.inventory)
        return part.task.report(answers, examples, part.inventory)


def evaluate_together(task: str, file: str | Path, *, model: str | Path, **options: Any) -> dict[str, Any]:
    """The scores of one of the tasks, by its name in the folder, on a labelled file."""
    answerer = TogetherAnswerer(model, **options)
    with leaving_out(answerer.settings.skip_bad) as left:
        report = answerer.report(task, Path(file))
    left.say(str(file))
    return report | ({"left_out": left.errors} if answerer.settings.skip_bad else {})


def blocks_of(path: Path, parts: Mapping[str, Part]) -> Iterator[dict[str, list[Any]]]:
    """The texts of a file as every task reads them."""
    readers = {name: iter(part.task.read(path, labelled=False)) for name, part in parts.items()}
    while True:
        block = {name: list(islice(reader, _BLOCK)) for name, reader in readers.items()}
        counts = {name: len(of_task) for name, of_task in block.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DataError(
                f"{path}: the tasks read different numbers of texts ({said}); give one text a line"
            )
        if not any(counts.values()):
            return
        yield block


def _key(row: Row) -> tuple[bytes, bytes]:
    types = row.token_type_ids
    return row.input_ids.tobytes(), b"" if types is None or not types.any() else types.tobytes()


def _chosen_batch(batch: Batch, index: torch.Tensor, rows: Sequence[Row]) -> Batch:
    """The rows of a batch that a task asks for, with what it knows of their tokens."""
    ids = batch.input_ids[index]
    hints = by_token([row.token_hints for row in rows], ids.shape[1], filling=0)
    return Batch(
        input_ids=ids,
        attention_mask=None if batch.attention_mask is None else batch.attention_mask[index],
        token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[index],
        token_hints=None if hints is None else hints.to(ids.device),
    )


def _chosen_states(states: States, index: torch.Tensor) -> States:
    return States(states.last[index], pooled=None if states.pooled is None else states.pooled[index])
