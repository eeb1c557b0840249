"""Pre-training: a recipe and a store become a model folder; the same call again goes on where it stopped."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from polyseme import progress
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import files_of
from polyseme.checkpoints.trial import try_saving
from polyseme.devices import environment, pick_device, pick_precision
from polyseme.errors import CheckpointError, MissingExtra, SettingsError
from polyseme.files import held, write_whole
from polyseme.integrity import open_record, read_checked_object, write_checked
from polyseme.models.batch import Batch
from polyseme.objectives.samples import Integers
from polyseme.records import from_plain, to_json, to_plain
from polyseme.seeding import derived
from polyseme.text.store import Store
from polyseme.threads import default_threads, torch_threads
from polyseme.training.building import Pretraining, begin, build_objective
from polyseme.training.companions import check_companions, companions_of, provide
from polyseme.training.held_out import held_out_batches, unigram_level
from polyseme.training.journal import Journal, curves_of, read_reports
from polyseme.training.loader import Loader, Position, ahead, split_documents
from polyseme.training.loop import SKIPPED, Step, mean_loss, train
from polyseme.training.measures import Decisions
from polyseme.training.optimizers import build_optimizers
from polyseme.training.pace import Pace
from polyseme.training.recipes import changed, read_recipe, sized
from polyseme.training.schedules import Schedule
from polyseme.training.settings import PretrainSettings, Recipe
from polyseme.training.state import (
    Progress,
    load_state,
    naming_kept_state,
    newest_state,
    remove_other_states,
    save_state,
)

HELD_OUT_ROWS = 2_000
"""The most rows of text that are kept for the held-out loss."""
_REPORTS = 20
_LEAST_BETWEEN_REPORTS = 50
_PROSE = ("title", "paper", "notes")
_PLATEAU = 0.15


@dataclass(frozen=True)
class Outcome:
    """How a call of `pretrain` ended."""

    folder: Path
    steps: int
    finished: bool
    """False when a signal stopped it; the same call again goes on."""
    losses: dict[str, float]
    """Held-out loss of each part, in nats."""
    measures: dict[str, float]
    """What the held-out decisions are worth all together: ROC-AUC, balanced accuracy."""
    unigram: float | None
    """Cross-entropy of the same targets under word frequencies alone, in nats."""


def pretrain(recipe: str, store: str | Path, *, out: str | Path, **options: Any) -> Outcome:
    """Train the recipe's model on the store and leave a model folder in `out`.

    `options` are the fields of `PretrainSettings`. Called again with the same words, a run that was
    stopped goes on where it was, bit for bit; a finished one is left alone.

    >>> pretrain("modernbert-wwm", "law.store", out="law-model", size="mini", minutes=20)  # doctest: +SKIP
    """
    settings = from_plain(options, PretrainSettings, where="pretrain")
    folder = Path(out)
    with (
        held(folder, purpose="training"),
        torch_threads(settings.threads or default_threads()),
        torch.random.fork_rng(),
    ):
        chosen = read_recipe(recipe)
        if settings.from_model is None or settings.size is not None:
            chosen = sized(chosen, settings.size)
        return _Run(changed(chosen, settings.change), Store.open(store), folder, settings).train()


class _Run:
    """One run folder being trained."""

    def __init__(self, recipe: Recipe, store: Store, folder: Path, settings: PretrainSettings) -> None:
        self.recipe, self.store, self.folder, self.settings = recipe, store, folder, settings
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device)
        torch.manual_seed(derived(settings.seed, "weights") % 2**63)
        backbone, self.card, heads = begin(recipe, store, settings)
        self.objective = build_objective(recipe, backbone.config, store)
        read = provide(
            self.objective,
            backbone,
            store,
            from_model=settings.from_model,
            length=recipe.training.length,
            device=self.device,
        )
        self.card = msgspec.structs.replace(self.card, made=self.card.made | read)
        check_companions(self.objective, self.card.family)
        self._remember(read)
        for name, head in heads.items():
            if name in self.objective.heads:
                self.objective.heads[name].load_state_dict(head.state_dict())
        self.module = Pretraining(backbone, self.objective).to(self.device).train()
        self.optimizers = build_optimizers(self.module, recipe.training)
        documents, kept = split_documents(
            store,
            held_out=recipe.training.held_out,
            most_tokens=HELD_OUT_ROWS * recipe.training.length,
        )
        self.loader = self._loader(documents, seed=settings.seed)
        self.kept = self._loader(kept, seed=0)
        training = recipe.training
        self.pace = Pace(
            total_steps=settings.steps or training.steps,
            seconds=None if settings.minutes is None else 60 * settings.minutes,
            stable=1 - training.cooldown if training.schedule == "warmup-stable-decay" else 0.02,
        )
        self.state = folder / "state"
        self.reached = Position()
        self.tokens = self.skipped = 0
        self.before = 0.0
        self.figures: dict[str, float] = {}
        self.measures: dict[str, float] = {}
        self.unigram: float | None = None
        self.signal: int | None = None

    def train(self) -> Outcome:
        """From the newest state to the end, or to a signal."""
        for name, model in companions_of(self.objective, self._model(steps=0)):
            try_saving(model, self.folder / name, folder=self.folder / ".trial")
        first = self._resume()
        if first >= self.pace.total_steps:
            progress.say(f"{self.folder} is already trained for {first} steps")
            remove_other_states(self.state / f"step-{first:08}")
            known = self._recall(first)
            self.done = first
            if self._is_complete():
                return self._outcome(first, finished=True)
            # It was killed between its last state and its files, or they are damaged.
            if not known:
                with (
                    closing(Journal(self.folder / "journal.jsonl", step=first)) as self.journal,
                    progress.bar("pretrain", total=None, unit="steps") as self.bar,
                ):
                    self._evaluate(first)
            return self._finish()
        self.started = self.saved = self.shown = time.perf_counter()
        self.done = first
        with ExitStack() as stack:
            journal = Journal(self.folder / "journal.jsonl", step=first)
            stack.callback(journal.close)
            stack.enter_context(naming_kept_state(self.state))
            stack.enter_context(self._signals())
            work = stack.enter_context(progress.bar("pretrain", total=None, unit="steps"))
            self.journal, self.bar = journal, work
            train(
                self.module,
                self._batches(first, stack),
                self.optimizers,
                factor=lambda done: self._schedule()(done),
                after=self._after,
                first=first,
                accumulation=self.recipe.training.accumulation,
                clip=self.recipe.training.clip,
                skip_non_finite=max(0, self.settings.skip_non_finite_steps - self.skipped),
                precision=self.precision,
                device=self.device,
            )
            self._evaluate(self.done)
        return self._finish()

    def _after(self, step: Step) -> bool:
        """Count, report, save; True when the run is over."""
        self.done = step.number
        self.tokens += step.tokens
        elapsed = self.before + time.perf_counter() - self.started
        self.pace.update(step.number, elapsed)
        rate = step.tokens / step.seconds
        if step.skipped:
            self.skipped += 1
            progress.warn(f"step {step.number}: {SKIPPED}")
        self.bar.advance(1, total=self.pace.total_steps, loss=step.loss, tokens_per_second=rate)
        every = max(1, self.pace.total_steps // 200)
        if step.number % every == 0:
            self.journal.write(
                kind="train",
                step=step.number,
                parts=step.parts,
                tokens=self.tokens,
                tokens_per_second=round(rate),
                gradient_norm=step.gradient_norm,
                seconds=round(elapsed, 3),
                rate=self._schedule()(step.number),
            )
        last = step.number >= self.pace.total_steps
        if not last and step.number % max(_LEAST_BETWEEN_REPORTS, self.pace.total_steps // _REPORTS) == 0:
            self._evaluate(step.number)
        if last or self.signal is not None or self._save_is_due(step.number):
            self._save(step.number)
        return last or self.signal is not None

    def _save_is_due(self, done: int) -> bool:
        if self.settings.save_steps is not None:
            return done % self.settings.save_steps == 0
        return time.perf_counter() - self.saved > 60 * self.settings.save_every

    def _save(self, done: int) -> None:
        now = time.perf_counter()
        save_state(
            self.state,
            self.module,
            self.optimizers,
            Progress(
                step=done,
                epoch=self.reached.epoch,
                batch=self.reached.batch,
                tokens=self.tokens,
                seconds=self.before + now - self.started,
                total_steps=self.pace.total_steps,
                settled=self.pace.settled or self.pace.seconds is None,
                skipped_steps=self.skipped,
                environment=environment(),
            ),
        )
        self.saved = time.perf_counter()

    def _evaluate(self, done: int) -> None:
        """Held-out loss on fixed batches, beside the level of word frequencies."""
        if not len(self.kept.documents):
            return
        batches = held_out_batches(self.kept)
        decisions = Decisions()
        generator = torch.get_rng_state()
        self.figures = mean_loss(
            self.module,
            self.module,
            batches,
            precision=self.precision,
            device=self.device,
            seen=decisions.add,
        )
        torch.set_rng_state(generator)
        self.measures = decisions.measures()
        self.unigram = unigram_level(self.store, batches) if self.objective.vocabulary else None
        self.journal.write(
            kind="held-out", step=done, parts=self.figures, measures=self.measures, unigram=self.unigram
        )
        line = ", ".join(f"{name} {value:.3f}" for name, value in (self.figures | self.measures).items())
        if self.unigram is not None and self.objective.vocabulary:
            reached = self.figures[self.objective.vocabulary]
            line += f" (word frequencies alone: {self.unigram:.3f}"
            line += "; still on that plateau)" if reached > self.unigram - _PLATEAU else ")"
        self.bar.note(f"step {done}: held-out {line}")
        if not all(map(math.isfinite, self.figures.values())):
            progress.warn(
                f"step {done}: the held-out loss is not finite ({line}); the model may be of no use"
            )

    def _batches(self, first: int, stack: ExitStack) -> Iterator[Batch]:
        """The batches from the reached position on; `reached` follows what the loop has taken."""

        def share(drawn: int) -> float:
            step = first + drawn // self.recipe.training.accumulation
            return min(1.0, step / self.pace.total_steps)

        stream = ahead(self.loader.batches(self.reached, share))
        stack.callback(stream.close)
        for batch, after in stream:
            self.reached = after
            yield batch

    def _schedule(self) -> Schedule:
        training = self.recipe.training
        return Schedule(
            training.schedule, self.pace.total_steps, warmup=training.warmup, cooldown=training.cooldown
        )

    def _loader(self, documents: Integers, *, seed: int) -> Loader:
        training = self.recipe.training
        return Loader(
            self.store, self.objective.corruption, documents, training.length, training.batch_size, seed
        )

    def _remember(self, read: dict[str, str]) -> None:
        """Write down what the run is; refuse to go on with something else in the same folder."""
        words = {
            "recipe": {name: value for name, value in to_plain(self.recipe).items() if name not in _PROSE},
            "size": self.settings.size,
            "steps": self.settings.steps,
            "minutes": self.settings.minutes,
            "seed": self.settings.seed,
            "from": self.settings.from_model,
            "layers": self.settings.layers,
            "store": self.store.fingerprint,
            "precision": self.precision,
            **read,
        }
        path = self.folder / "run.json"
        if not path.exists():
            if (self.folder / "config.json").exists():
                raise SettingsError(f"{self.folder} holds a model already; name another folder")
            write_checked(path, to_json(words))
            return
        otherwise = "; restore the file, or start again in another folder"
        old = read_checked_object(path, otherwise=otherwise)
        for key, value in msgspec.json.decode(msgspec.json.encode(words)).items():
            if old.get(key) != value:
                shown = "" if key in ("recipe", "store") else f" ({old.get(key)} then, {value} now)"
                raise SettingsError(
                    f"{self.folder} was started with another {key}{shown}; repeat the first command to go "
                    f"on, or name another folder (--from {self.folder} starts from its model)"
                )

    def _resume(self) -> int:
        """Fill everything from the newest state, if there is one; the number of steps done."""
        found = newest_state(self.state) if self.state.exists() else None
        if found is None:
            return 0
        state = load_state(found, self.module, self.optimizers)
        if self.pace.seconds is None and state.total_steps != self.pace.total_steps:
            raise CheckpointError(
                f"{found} is of a run of {state.total_steps} steps, not of {self.pace.total_steps}; "
                "it is damaged: start in another folder"
            )
        for key, now in environment().items():
            if (then := state.environment.get(key)) != now:
                progress.warn(
                    f"{key} was {then} and is {now}: the run goes on, but not bit for bit as it would have"
                )
        self.reached, self.tokens, self.before = state.position, state.tokens, state.seconds
        self.skipped = state.skipped_steps
        self.pace.total_steps = state.total_steps
        self.pace.settled = state.settled
        progress.say(f"going on from step {state.step}")
        return state.step

    def _finish(self) -> Outcome:
        """Write the model folder's files and the curves."""
        finished = self.signal is None
        model, more = self._model(steps=self.done), self._curves()
        for part, beside in companions_of(self.objective, model):
            if part:
                more |= {f"{part}/{name}": content for name, content in files_of(beside).items()}
        for name, content in files_of(model, more=more).items():
            (self.folder / name).parent.mkdir(exist_ok=True, parents=True)
            write_whole(self.folder / name, content)
        if not finished:
            progress.say(f"stopped and saved at step {self.done}; the same command goes on from there")
        return self._outcome(self.done, finished=finished)

    def _model(self, *, steps: int) -> Model:
        """What is saved."""
        return Model(
            backbone=self.module.backbone,
            heads=dict(self.objective.heads.items()),
            tokenizer=self.store.tokenizer,
            card=msgspec.structs.replace(
                self.card, recipe=to_plain(self.recipe), made=self.card.made | {"steps": steps}
            ),
        )

    def _is_complete(self) -> bool:
        """Whether the model's files are there, as they were written at this step."""
        try:
            record = open_record(self.folder)
            if record is None or record.plain.get("made", {}).get("steps") != self.done:
                return False
            record.check_all()
        except CheckpointError:
            return False
        return True

    def _curves(self) -> dict[str, bytes]:
        """The picture of the curves, where it can be drawn, by its name."""
        try:
            return {"curves.svg": curves_of(self.folder / "journal.jsonl")}
        except MissingExtra as error:
            progress.say(f"no picture of the curves: {error}")
            return {}

    def _recall(self, step: int) -> bool:
        """The last held-out figures, from the journal; False if they are not those of `step`."""
        lines = [line for line in read_reports(self.folder / "journal.jsonl") if line.kind == "held-out"]
        if lines:
            self.figures, self.measures = _known(lines[-1].parts), _known(lines[-1].measures)
            self.unigram = lines[-1].unigram
        return bool(lines) and lines[-1].step == step

    def _outcome(self, steps: int, *, finished: bool) -> Outcome:
        return Outcome(self.folder, steps, finished, self.figures, self.measures, self.unigram)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the step at hand; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: object) -> None:
            self.signal = number
            for known, handler in before.items():
                signal.signal(known, handler)

        before = {known: signal.signal(known, handle) for known in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for known, handler in before.items():
                signal.signal(known, handler)


def _known(figures: dict[str, float | None]) -> dict[str, float]:
    """The figures; NaN for one that was not finite, which JSON has no number for."""
    return {name: math.nan if value is None else value for name, value in figures.items()}
