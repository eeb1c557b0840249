"""The demo, told with the public functions: each part goes on where an interrupted run stopped."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import save
from polyseme.demo import shipped
from polyseme.demo.page import page
from polyseme.demo.pictures import loss_picture, senses_picture
from polyseme.demo.report import NAME, Classified, Pretrained, Report, Senses, machine
from polyseme.demo.senses import Vectors, static_vectors, told_apart, word_vectors
from polyseme.demo.settings import DemoSettings
from polyseme.demo.words import AMBIGUOUS, CONTROLS
from polyseme.devices import usable_cores
from polyseme.embedding.embedder import Embedder
from polyseme.errors import DataError, MissingExtra
from polyseme.evaluation.baselines import tfidf
from polyseme.files import disk_errors, held, whole_folder, write_whole
from polyseme.models.transformer.model import Transformer
from polyseme.records import from_plain, to_json
from polyseme.seeding import derived
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.labelled_texts import LabelledText, read_labelled
from polyseme.tasks.metrics import accuracy, macro_f1
from polyseme.tasks.settings import ClassificationSettings
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.text.tokenizer_learning import learn_tokenizer
from polyseme.training.journal import read_journal
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import read_recipe

RECIPE, SIZE = "modernbert-wwm", "mini"
LAYERS = "-1"
FINETUNING: dict[str, Any] = {"learning_rate": 3e-4, "epochs": 3, "batch_size": 32, "dropout": 0.1}
"""Fixed beforehand, and the same for both networks."""


def demo(*, out: str | Path = "polyseme-demo", **options: Any) -> Report:
    """Run the whole story and leave page, report, model and classifier in the folder `out`.

    `options` are the fields of `DemoSettings`. The folder appears when everything is done; one from an
    earlier demo stays until then. What is under way lies beside it in `OUT.unfinished`: the same call
    after an interruption goes on from there.

    >>> demo(out="polyseme-demo", minutes=2).pretrained.steps  # doctest: +SKIP
    """
    settings = from_plain({"out": str(out), **options}, DemoSettings, where="demo")
    for package, module in (("matplotlib", "matplotlib"), ("scikit-learn", "sklearn")):
        if find_spec(module) is None:
            raise MissingExtra(package, extra="demo")
    _check_free(Path(out))
    work = Path(out).with_name(f"{Path(out).name}.unfinished")
    with disk_errors(work), held(work, purpose="running the demo"):
        _clear_if_other(work, settings)
        report = _Story(settings, work).tell()
    shutil.rmtree(work)
    return report


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder with --out")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / NAME).exists():
            raise DataError(f"{folder} holds something else than a demo; name another folder with --out")
        progress.say(f"{folder} holds an earlier demo; the new one takes its place when it is complete")


def _clear_if_other(work: Path, settings: DemoSettings) -> None:
    """Keep what an interrupted run left, unless it was run with other settings."""
    words = to_json(settings)
    path = work / "settings.json"
    if path.exists() and path.read_bytes() == words:
        progress.say(f"going on with what lies in {work}")
        return
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != ".lock":
            entry.unlink()
    write_whole(path, words)


@dataclass
class _Story:
    """One telling."""

    settings: DemoSettings
    work: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def tell(self) -> Report:
        """All parts in order, then the folder at once."""
        with self._part("1/6", "a vocabulary learned from the text that ships", "vocabulary"):
            self.sources = shipped.corpora(self.work / "text", share=self.settings.share)
            self._learn_vocabulary()
        with self._part("2/6", "the text, cut into tokens and words", "store"):
            store = self._prepare()
        with self._part("3/6", "a network that learns to fill in hidden words", "pre-training"):
            pretrained = self._pretrain(store)
        with self._part("4/6", "the vectors of words that have two meanings", "vectors"):
            senses, picture = self._compare_senses()
        with self._part("5/6", "a classifier: what does a line of a poem feel?", "classifiers"):
            classified, examples = self._classify()
        with self._part("6/6", "page and report", "page"):
            report = Report(
                folder=self.settings.out,
                settings=self.settings,
                text={path.name.split(".")[0]: shipped.size(path) for path in self.sources},
                vocab_size=store.vocab_size,
                tokens=store.num_tokens,
                pretrained=pretrained,
                senses=senses,
                classified=classified,
                examples=examples,
                seconds=dict(self.seconds),
                machine=machine(),
            )
            self._write(report, picture)
        return report

    @contextmanager
    def _part(self, number: str, title: str, name: str) -> Iterator[None]:
        progress.say(f"\n{number}  {title}")
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 1)

    def _learn_vocabulary(self) -> None:
        folder = self.work / "vocabulary"
        if not folder.exists():
            learn_tokenizer(self.sources, out=folder, **read_recipe(RECIPE).tokenizer)

    def _prepare(self) -> Store:
        folder = self.work / "store"
        if folder.exists():
            return Store.open(folder)
        workers = min(2, self.settings.threads or usable_cores())
        return prepare(self.sources, tokenizer=self.work / "vocabulary", out=folder, workers=workers)

    def _pretrain(self, store: Store) -> Pretrained:
        run = self.work / "run"
        outcome = pretrain(
            RECIPE,
            store.folder,
            out=run,
            size=SIZE,
            minutes=self.settings.minutes,
            seed=self.settings.seed,
            threads=self.settings.threads,
        )
        if not outcome.finished:
            raise KeyboardInterrupt
        self.model = load(run, heads=["masked-lm"])
        last = [line for line in read_journal(run / "journal.jsonl") if line["kind"] == "train"][-1]
        return Pretrained(
            steps=outcome.steps,
            tokens=last["tokens"],
            seconds=last["seconds"],
            tokens_per_second=round(last["tokens"] / last["seconds"], 1),
            held_out=outcome.losses["masked-lm"],
            unigram=outcome.unigram or float("nan"),
            parameters=sum(p.numel() for p in self.model.backbone.parameters()),
        )

    def _compare_senses(self) -> tuple[dict[str, Senses], str]:
        """The same sentences through both networks; the picture shows the trained one's vectors."""
        share, seed = self.settings.share, self.settings.seed
        both = {
            "two_meanings": shipped.contexts(list(AMBIGUOUS), share=share),
            "one_meaning": shipped.contexts(list(CONTROLS), share=share),
        }
        vectors: dict[str, dict[str, Vectors]] = {}
        for name, model in (("untrained", self._untrained()), ("pretrained", self.model)):
            embedder = Embedder(model, layers=LAYERS, threads=self.settings.threads)
            vectors[name] = {kind: word_vectors(embedder, chosen) for kind, chosen in both.items()}
        vectors["static"] = {
            kind: static_vectors(vectors["pretrained"][kind], chosen) for kind, chosen in both.items()
        }
        senses = {
            name: Senses(**{kind: told_apart(of_kind[kind], both[kind], seed=seed) for kind in both})
            for name, of_kind in vectors.items()
        }
        told = senses["pretrained"].two_meanings
        progress.say(
            f"nearer to those of their own domain: {told.share:.1%} of the vectors of words of two meanings "
            f"(untrained {senses['untrained'].two_meanings.share:.1%}, one static vector 50 %); "
            f"words of one meaning: {senses['pretrained'].one_meaning.share:.1%}"
        )
        chosen = both["two_meanings"]
        return senses, senses_picture(vectors["pretrained"]["two_meanings"], chosen, AMBIGUOUS, told)

    def _untrained(self) -> Model:
        """The network as it was before its first step."""
        with torch.random.fork_rng():
            torch.manual_seed(derived(self.settings.seed, "weights") % 2**63)
            backbone = Transformer(self.model.backbone.config)
        return Model(backbone, self.model.card, tokenizer=self.model.tokenizer)

    def _classify(self) -> tuple[dict[str, Classified], dict[str, int]]:
        """The lines' sentiment by n-grams, by the network from random weights, and by ours."""
        files = shipped.poems(self.work / "text", share=self.settings.share)
        settings = ClassificationSettings()
        lines = {part: list(read_labelled(path, settings, labelled=True)) for part, path in files.items()}
        progress.say("character n-grams with a linear model …")
        baseline = tfidf(lines["train"], lines["dev"], lines["test"], classifier="svc")
        classified = {
            "majority": _most_frequent(lines),
            "tfidf": Classified(
                accuracy=baseline.test["accuracy"],
                macro_f1=baseline.test["macro_f1"],
                dev_accuracy=baseline.dev["accuracy"],
            ),
        }
        for name, fresh in (("untrained", True), ("pretrained", False)):
            progress.say("the same network from random weights:" if fresh else "our pre-trained network:")
            folder = self.work / f"classifier-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            outcome = finetune(
                "classification",
                **files,
                model=self.model,
                out=folder,
                fresh=fresh,
                seeds=(self.settings.seed,),
                threads=self.settings.threads,
                **FINETUNING,
            )
            classified[name] = Classified(
                accuracy=outcome.test["accuracy"].mean,
                macro_f1=outcome.test["macro_f1"].mean,
                dev_accuracy=outcome.dev["accuracy"].mean,
            )
        return classified, {part: len(of_part) for part, of_part in lines.items()}

    def _write(self, report: Report, picture: str) -> None:
        """Everything into the result's folder, which appears at once."""
        journal = read_journal(self.work / "run" / "journal.jsonl")
        with whole_folder(Path(self.settings.out), replace=True) as building:
            save(self.model, building / "model")
            shutil.copytree(self.work / "classifier-pretrained", building / "classifier")
            write_whole(building / NAME, to_json(report))
            config = self.model.backbone.config
            html = page(
                report,
                senses=picture,
                loss=loss_picture(journal),
                layers=config.num_layers,
                width=config.hidden_size,
                recipe=RECIPE,
            )
            write_whole(building / "index.html", html)


def _most_frequent(lines: dict[str, list[LabelledText]]) -> Classified:
    """What is right without reading: the commonest answer of the training lines."""
    answers = {part: [one.labels[0] for one in of_part if one.labels] for part, of_part in lines.items()}
    answer = Counter(answers["train"]).most_common(1)[0][0]
    test = answers["test"]
    return Classified(
        accuracy=accuracy([answer] * len(test), test),
        macro_f1=macro_f1([(answer,)] * len(test), [(label,) for label in test], sorted(set(test))),
        dev_accuracy=accuracy([answer] * len(answers["dev"]), answers["dev"]),
    )
