"""`Predictor`: a fine-tuned model over texts in memory, or over a file of them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from polyseme import progress
from polyseme.checkpoints.hub import resolve
from polyseme.devices import InferencePrecision
from polyseme.errors import DataError
from polyseme.files import whole_file
from polyseme.tasks.answering_together import TogetherAnswerer, blocks_of, is_together
from polyseme.tasks.predicting import Answerer
from polyseme.tasks.prediction_files import Predicted, PredictionFile
from polyseme.tasks.predictions import MultitaskPrediction, Prediction
from polyseme.tasks.skipping import leaving_out
from polyseme.tasks.task import Completing, InPairs, Task

_BLOCK = 2048
"""Examples held at once."""


class Predictor:
    """A fine-tuned model, of ours or of another library, that answers texts.

    What an input is depends on the task: a text, or a pair of texts (classification, regression); a text or a
    list of words (tagging, intents); a question and a passage (reading comprehension); a question and its
    choices, perhaps with a passage before them (multiple choice); a query and a list of candidates
    (ranking). An object with these names does as well. A model of several tasks answers all of them.

    >>> predictor = Predictor.load("classifier")  # doctest: +SKIP
    >>> predictor.predict(["房间很大，服务也好", "早餐差"])[1].label  # doctest: +SKIP
    '差评'
    """

    def __init__(self, answerer: Answerer | TogetherAnswerer) -> None:
        self._answerer = answerer

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        task: str | None = None,
        precision: InferencePrecision = "fp32",
        device: str = "auto",
        threads: int | None = None,
        batch_tokens: int = 8192,
        task_settings: Mapping[str, Any] | None = None,
    ) -> "Predictor":
        """The predictor of a model folder or hub name.

        `task` is asked for only where another library saved the model and its head serves several.
        `task_settings` are settings of the task that shall differ from fine-tuning, such as
        `{"long_texts": "windows"}`; the others are those of `PredictSettings`.
        """
        chosen: dict[str, Any] = {
            "precision": precision,
            "device": device,
            "threads": threads,
            "batch_tokens": batch_tokens,
            **(task_settings or {}),
        }
        folder = resolve(name_or_folder)
        if is_together(folder):
            return cls(TogetherAnswerer(folder, **chosen))
        return cls(Answerer(folder, wanted=task, **chosen))

    @property
    def tasks(self) -> dict[str, str]:
        """The name of each task that the model answers, with its kind; one task is called as its kind is."""
        return {name: task.name for name, task in self._tasks().items()}

    def predict(self, inputs: Sequence[Any]) -> list[Prediction]:
        """One prediction an input, in the inputs' order; each is the same alone and among others.

        Raises `DataError` where an input is not what the task reads, and names it by its place.
        """
        if isinstance(inputs, str | bytes | Mapping):
            raise DataError(
                f"predict takes a list of inputs, got {inputs!r:.60}; write predict([…]), also for one input"
            )
        given = list(inputs)
        if not given:
            return []
        examples = {name: _examples(task, given) for name, task in self._tasks().items()}
        if isinstance(self._answerer, TogetherAnswerer):
            answers = self._answerer.answers(examples)
            tasks = self._tasks()
            return [
                MultitaskPrediction({name: tasks[name].prediction(answer) for name, answer in one.items()})
                for one in answers
            ]
        task = self._answerer.task
        return [task.prediction(answer) for answer in self._answerer.answers(examples[task.name])]

    def predict_file(self, file: str | Path, *, out: str | Path, keep: str | None = None) -> int:
        """Write a prediction for each example of `file`, in order, and return their number.

        The suffix of `out` names the form: .jsonl, .csv, .tsv, or .conll for words and tags. `keep` names
        the columns of the input that are written too, with commas between them, or is all or none; usually
        all in .csv and .tsv, and none in .jsonl.
        """
        answerer, target = self._answerer, Path(out)
        if target.is_file() and Path(file).exists() and target.samefile(file):
            raise DataError(f"{target} is the file that is read; name another for the predictions")
        task = None if isinstance(answerer, TogetherAnswerer) else answerer.task
        written = PredictionFile(target, keep=keep, task=task)
        in_pairs = isinstance(task, InPairs) and written.is_table
        total, held = 0, list[Predicted]()
        with (
            leaving_out(answerer.settings.skip_bad) as left,
            whole_file(target) as sink,
            progress.bar("predict", unit="texts") as work,
        ):
            for count, rows in self._answered(Path(file), in_pairs=in_pairs):
                if in_pairs:
                    held += rows
                else:
                    sink.write(written.encoded(rows))
                work.advance(count)
                total += count
            # The pairs of a query may lie apart in the file, and are written in its order.
            sink.write(written.encoded(sorted(held, key=lambda row: row.number)))
        if isinstance(answerer, Answerer):
            answerer.say_cut(str(file))
        left.say(str(file))
        return total

    def _tasks(self) -> dict[str, Task[Any, Any]]:
        if isinstance(self._answerer, TogetherAnswerer):
            return {name: part.task for name, part in self._answerer.parts.items()}
        return {self._answerer.task.name: self._answerer.task}

    def _answered(self, file: Path, *, in_pairs: bool) -> Iterator[tuple[int, list[Predicted]]]:
        """Block by block the number of examples and the rows that are written."""
        answerer, number = self._answerer, 0
        if isinstance(answerer, TogetherAnswerer):
            for block in blocks_of(file, answerer.parts):
                first = next(iter(answerer.parts))
                rows = []
                for example, answers in zip(block[first], answerer.answers(block), strict=True):
                    plain = {name: answerer.parts[name].task.write(said) for name, said in answers.items()}
                    rows.append(Predicted(answerer.parts[first].task.inputs(example), plain, answers, number))
                    number += 1
                yield len(rows), rows
            return
        task = answerer.task
        examples = task.read(file, labelled=False)
        while block_of_one := list(islice(examples, _BLOCK)):
            answered = answerer.answered(block_of_one)
            rows = []
            for example, answer in answered:
                if in_pairs and isinstance(task, InPairs):
                    rows += [
                        Predicted(inputs, plain, answer, place)
                        for place, inputs, plain in task.rows(answer, example)
                    ]
                else:
                    rows.append(Predicted(task.inputs(example), task.write(answer), answer, number))
                    number += 1
            yield len(block_of_one), rows


def _examples(task: Task[Any, Any], given: Sequence[Any]) -> list[Any]:
    """The inputs as examples of a task."""
    examples = [task.example(one, where=f"inputs[{number}]") for number, one in enumerate(given)]
    return task.completed(examples) if isinstance(task, Completing) else examples
