"""Answers of a fine-tuned model: written for a file of texts, or scored against a labelled one."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.checkpoints.cards import how_made
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import heads_in, load
from polyseme.devices import pick_device
from polyseme.errors import CheckpointError, NotFiniteError, SettingsError
from polyseme.models.finite import naming_text
from polyseme.models.transformer.model import Transformer
from polyseme.records import from_plain
from polyseme.runtime.backbone import CompiledBackbone
from polyseme.tasks.answering_together import TogetherAnswerer, evaluate_together, is_together
from polyseme.tasks.prediction_files import refuse_suffix
from polyseme.tasks.rows import count_cut, outputs_of, say_cut
from polyseme.tasks.settings import PredictSettings
from polyseme.tasks.skipping import leaving_out, parsed
from polyseme.tasks.task import Row, divided, make_task, settings_from_training, task_kind
from polyseme.tasks.ways.way import way_of
from polyseme.threads import default_threads, with_own_threads


class Foreign(NamedTuple):
    """What answers with a model that another library saved."""

    task: str
    settings: dict[str, Any]
    labels: tuple[str, ...] = ()
    """Of the inventory, where the folder names no classes."""


FOREIGN: dict[str, Foreign] = {
    "single": Foreign("classification", {"several": False}),
    "multi": Foreign("classification", {"several": True}),
    "regression": Foreign("regression", {}),
    "token-classification": Foreign("tagging", {}),
    "question-answering": Foreign("reading-comprehension", {}, ("span",)),
    "multiple-choice": Foreign("multiple-choice", {}),
}
"""Task and settings of a model that another library saved, by `Card.problem` or else by its head."""


ALIKE = {"ranking": "regression"}
"""Tasks whose models other libraries save as those of another task."""


class Answerer:
    """A fine-tuned model that answers examples of its task.

    An example gets the same answer alone and among others. Options are those of `PredictSettings` and of
    the task, which are otherwise as they were in fine-tuning.
    """

    def __init__(self, name_or_folder: str | Path, *, wanted: str | None = None, **options: Any) -> None:
        """`wanted` is the task that a model of another library is for, where its head serves several."""
        folder = resolve(name_or_folder)
        made = how_made(folder)
        way = way_of(made)
        head_name = task_kind(made["task"]).head_name if "task" in made else _foreign_head(folder)
        model = load(folder, heads=way.stored_heads(head_name))
        foreign = FOREIGN.get(model.card.problem or head_name, FOREIGN["single"])
        task, known = foreign.task, foreign.settings
        if wanted is not None and ALIKE.get(wanted) == task:
            task = wanted
        if "task" in made:
            task, known = made["task"], settings_from_training(made.get("task_settings", {}))
        given = {name: value for name, value in options.items() if value is not None}
        chosen, of_task = divided(given, PredictSettings, task)
        self.settings = settings = from_plain(chosen, PredictSettings, where="predict")
        if model.tokenizer is None:
            raise CheckpointError(f"{name_or_folder} has no tokenizer; fine-tune it first")
        self.threads = settings.threads or default_threads()
        self._device = pick_device(settings.device)
        self.task = way.task(make_task(task, {**known, **of_task}), model)
        self._tokenizer = model.tokenizer
        self._inventory = from_plain(
            {"labels": model.card.labels or foreign.labels, **made.get("inventory", {})},
            self.task.inventory_kind,
            where=str(name_or_folder),
        )
        positions = model.backbone.config.max_position_embeddings
        self._max_length = min(made.get("max_length") or positions, positions)
        self._module = way.restored(self.task, model, self._inventory, made.get("reading", {}))
        self._module.to(self._device)
        # From the final weights, and only to answer; training and its scores on dev keep the plain network.
        if isinstance(self._module.backbone, Transformer):
            self._module.backbone = CompiledBackbone(  # type: ignore[assignment]
                self._module.backbone, settings.precision, threads=self.threads, device=self._device
            )
        self._cut = self._read = 0

    def answers(self, examples: Sequence[Any]) -> list[Any]:
        """One answer an example."""
        return [answer for _, answer in self.answered(examples)]

    @with_own_threads
    def answered(self, examples: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Each example with its answer; without the bad ones where they may be left out."""

        def rows_of(example: Any) -> tuple[Any, list[Row]]:
            return example, self.task.encode(
                example, self._tokenizer, self._inventory, max_length=self._max_length
            )

        encoded = list(parsed(examples, rows_of))
        examples, rows = [example for example, _ in encoded], [rows for _, rows in encoded]
        self._cut += count_cut(rows)
        self._read += len(rows)
        with self._naming_text(rows):
            outputs = outputs_of(
                self._module,
                rows,
                padding=self._tokenizer.filling_id,
                batch_tokens=self.settings.batch_tokens,
                precision="fp32",  # of the head; the backbone has its own
                device=self._device,
            )
        answers = self.task.decode(outputs, examples, self._inventory)
        return list(zip(examples, answers, strict=True))

    @contextlib.contextmanager
    def _naming_text(self, rows: Sequence[Sequence[Row]]) -> Iterator[None]:
        """Name the example of a `NotFiniteError` by its text."""
        try:
            yield
        except NotFiniteError as error:
            with naming_text(self._tokenizer.decode(rows[error.number or 0][0].input_ids)):
                raise

    def say_cut(self, name: str) -> None:
        """Say how many of the examples answered so far were cut; `name` tells which examples these are."""
        say_cut(self._cut, total=self._read, max_length=self._max_length, name=name)

    def report(self, answers: Sequence[Any], examples: Sequence[Any]) -> dict[str, Any]:
        """The scores of answers to labelled examples."""
        return self.task.report(answers, examples, self._inventory)


def predict(
    file: str | Path,
    *,
    model: str | Path,
    out: str | Path,
    task: str | None = None,
    keep: str | None = None,
    **options: Any,
) -> int:
    """Write a prediction for each example of `file`, in order, and return their number.

    The suffix of `out` names the form: .jsonl, .csv, .tsv, or .conll for words and tags. `keep` names the
    columns of the input that are written too, with commas between them, or is all or none; usually all in
    .csv and .tsv, and none in .jsonl. `task` is asked for only where another library saved the model and its
    head serves several tasks. Labels in the file are not looked at. A file of one column without header is
    one text a line. `Predictor` answers texts in memory.

    >>> predict("reviews.csv", model="mine", out="predicted.csv")  # doctest: +SKIP
    1200
    """
    from polyseme.tasks.predictor import Predictor  # It holds the classes of this module.

    refuse_suffix(Path(out))
    folder = resolve(model)
    if is_together(folder):
        return Predictor(TogetherAnswerer(folder, **options)).predict_file(file, out=out, keep=keep)
    return Predictor(Answerer(folder, wanted=task, **options)).predict_file(file, out=out, keep=keep)


def evaluate(task: str, file: str | Path, *, model: str | Path, **options: Any) -> dict[str, Any]:
    """The scores of a fine-tuned model on a labelled file, with what explains them, as plain data.

    >>> evaluate("classification", "test.tsv", model="mine")["accuracy"]  # doctest: +SKIP
    0.915
    """
    folder = resolve(model)
    if is_together(folder):
        return evaluate_together(task, file, model=folder, **options)
    answerer = Answerer(folder, wanted=task, **options)
    if answerer.task.name != task:
        raise SettingsError(f"{model} was fine-tuned for {answerer.task.name}, not for {task}")
    with leaving_out(answerer.settings.skip_bad) as left:
        answered = answerer.answered(list(answerer.task.read(Path(file), labelled=True)))
    answerer.say_cut(str(file))
    left.say(str(file))
    report = answerer.report([answer for _, answer in answered], [example for example, _ in answered])
    return report | ({"left_out": left.errors} if answerer.settings.skip_bad else {})


def _foreign_head(folder: Path) -> str:
    """The head of a folder that another library wrote: a classifier of texts, unless it says otherwise."""
    found = heads_in(folder)
    return next((head for head in FOREIGN if head in found), "classification")
