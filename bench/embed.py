"""Vectors of texts, in tokens a second, against the peers and against the machine's own limit.

    python bench/embed.py --data ../shared/data --out FOLDER
    python bench/embed.py --data ../shared/data --out FOLDER --avx2
    python bench/embed.py --data ../shared/data --out FOLDER --quick --models minilm-en --profiles 30

bench/README.md says how to install the peers. Three models (all-MiniLM-L6-v2, and the shapes of Chinese
BERT-base and of a small Chinese encoder) read real text of about 10, 30, 200 and 512 tokens through every
engine. Each engine and precision is a process of its own, bound to the same cores, with the same number of
threads for everything in it, its tokenizer included. It chooses its batch size on texts of the profile and
runs over all of them once to warm up. Then the engines take turns: in each round every engine reads all texts
once, beginning with another engine each time, while the others are stopped by a signal. Medians over the
rounds are printed; ratios are medians of the ratios within a round. A result is kept in FOLDER for each
model and profile, and the same command goes on where it stopped.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from embed_export import cosines
from embed_models import (
    CALIBRATION,
    LATENCY,
    PROFILES,
    QUALITY,
    TOKENS,
    Texts,
    model_folder,
    quality_pairs,
    write_texts,
)
from embed_report import report
from embed_workers import REFERENCE, Failed, Worker, export, serve

ENGINES = (
    "polyseme:fp32", "polyseme:bf16", "polyseme:int8", "sentence-transformers:fp32",
    "sentence-transformers:bf16", "onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:bf16",
    "openvino:int8", "limit:fp32", "limit:bf16", "limit:int8",
)  # fmt: skip
CALLS = 40
"""Calls with a single text in one round."""


class Study:
    """The cells of one command: what they share, and the results that are kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data, self.out = Path(options.data).resolve(), Path(options.out).resolve()
        self.work = self.out / "models"
        self.results = self.out / ("avx2" if options.avx2 else "all-instructions")
        self.results.mkdir(parents=True, exist_ok=True)
        self.rounds = options.rounds or (2 if options.quick else 7)

    def model(self, name: str) -> None:
        """All profiles of a model that are not finished yet, short texts first, by the same processes."""
        missing = [profile for profile in self._profiles(name) if self._kept(name, profile) is None]
        if not missing:
            return
        folder = model_folder(name, data=self.data, work=self.work)
        export(
            self._worker_options(name, folder), self._texts(name, CALIBRATION, folder), self.options.engines
        )
        workers: dict[str, Worker] = {}
        refused: dict[str, str] = {}
        try:
            for engine in (REFERENCE, *self.options.engines):
                self._attempt(
                    engine, refused, lambda engine=engine: self._start(workers, engine, name, folder)
                )
            for profile in missing:
                result = self._profile(name, profile, folder, workers, dict(refused))
                path = self._path(name, profile)
                path.with_suffix(".part").write_text(json.dumps(result, ensure_ascii=False, indent=1))
                path.with_suffix(".part").rename(path)
        finally:
            for worker in workers.values():
                worker.end()

    def kept(self) -> list[dict[str, Any]]:
        """The results of the chosen models and profiles."""
        return [
            found
            for name in self.options.models
            for profile in self._profiles(name)
            if (found := self._kept(name, profile)) is not None
        ]

    def _profiles(self, name: str) -> list[str]:
        quality = [QUALITY] if name == "minilm-en" else []
        every = [*PROFILES, LATENCY, *quality]
        return [profile for profile in every if profile in (self.options.profiles or every)]

    def _settings(self) -> dict[str, Any]:
        return {"threads": self.options.threads, "rounds": self.rounds, "quick": self.options.quick}

    def _path(self, name: str, profile: str) -> Path:
        return self.results / f"{name}-{profile}.json"

    def _kept(self, name: str, profile: str) -> dict[str, Any] | None:
        """A result of this command: of the same settings, with every engine that is asked for."""
        path = self._path(name, profile)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        same = found["settings"] == self._settings()
        return found if same and set(self.options.engines) <= found["engines"].keys() else None

    def _texts(self, name: str, profile: str, folder: Path) -> Path:
        tokens = {LATENCY: CALLS * 16, CALIBRATION: 12_000}.get(profile, TOKENS[name])
        if self.options.quick and profile in PROFILES:
            tokens //= 16
        return write_texts(name, profile, data=self.data, folder=folder, work=self.work, tokens=tokens)

    def _worker_options(self, name: str, folder: Path) -> dict[str, Any]:
        return {
            "folder": str(folder), "work": str(self.work / name), "threads": self.options.threads,
            "avx2": self.options.avx2,
        }  # fmt: skip

    def _start(self, workers: dict[str, Worker], engine: str, name: str, folder: Path) -> None:
        workers[engine] = Worker(engine, self._worker_options(name, folder), self.results / "log.txt")

    def _attempt(self, engine: str, refused: dict[str, str], call: Callable[[], Any]) -> Any:
        """What an engine cannot do is said, written down, and no end of the others' turns."""
        try:
            return call()
        except Failed as failure:
            refused[engine] = str(failure)
            print(f"{engine} left out: {failure}", file=sys.stderr, flush=True)
            return None

    def _profile(
        self, name: str, profile: str, folder: Path, workers: dict[str, Worker], refused: dict[str, str]
    ) -> dict[str, Any]:
        """One profile through all engines, in turns."""
        path = self._texts(name, profile, folder)
        engines = [e for e in self.options.engines if e in workers and workers[e].alive and e not in refused]
        if profile in (LATENCY, QUALITY):
            engines = [engine for engine in engines if not engine.startswith("limit")]
        rows: dict[str, dict[str, Any]] = {}
        for engine in engines:
            chosen = self._attempt(
                engine,
                refused,
                lambda e=engine: workers[e].ask(do="prepare", texts=str(path), profile=profile),
            )
            if chosen is not None:
                rows[engine] = {**chosen, "seconds": [], "cpu": []}
        rounds = 1 if profile == QUALITY else max(self.rounds, 5) if profile == LATENCY else self.rounds
        for number in range(rounds):
            turn = [*rows][number % len(rows) :] + [*rows][: number % len(rows)]
            for engine in turn:
                done = self._attempt(
                    engine, refused, lambda e=engine: workers[e].ask(do="round", calls=CALLS)
                )
                for kind in ("seconds", "cpu"):
                    rows[engine][kind].append(done[kind] if done else float("nan"))
        for engine in [*rows]:
            done = self._attempt(engine, refused, lambda e=engine: workers[e].ask(do="finish"))
            rows[engine] |= done or {}
        rows = {engine: row for engine, row in rows.items() if engine not in refused}
        self._judge(path, profile, workers, rows)
        texts = Texts.read(path)
        print(f"{name} {profile}: {time.strftime('%H:%M:%S')}", file=sys.stderr, flush=True)
        return {
            "model": name, "profile": profile, "settings": self._settings(), "tokens": texts.tokens,
            "texts": len(texts.texts), "avx2": self.options.avx2,
            "engines": {
                engine: rows.get(engine, {"refused": refused.get(engine, "not asked")})
                for engine in self.options.engines
            },
        }  # fmt: skip

    def _judge(
        self, path: Path, profile: str, workers: dict[str, Worker], rows: dict[str, dict[str, Any]]
    ) -> None:
        """Each engine's cosines to the plain model, or its rank correlation with human scores."""
        made = {engine: row.pop("vectors", None) for engine, row in rows.items()}
        if profile == LATENCY:
            return
        reference = None
        if REFERENCE in workers and workers[REFERENCE].alive:
            workers[REFERENCE].ask(do="prepare", texts=str(path), profile=profile)
            reference = np.load(workers[REFERENCE].ask(do="finish")["vectors"])
        for engine, vectors in made.items():
            if vectors is None or reference is None:
                continue
            found = np.load(vectors)
            kept = cosines(found, reference)
            rows[engine] |= {"lowest": float(kept.min()), "mean": float(kept.mean())}
            if profile == QUALITY:
                rows[engine]["spearman"] = spearman(found, self.data)
                rows[engine]["reference"] = spearman(reference, self.data)


def spearman(vectors: Any, data: Path) -> float:
    """Spearman's correlation of the pairs' cosines with the human scores of STS-B dev, times 100."""
    from scipy.stats import spearmanr

    found = spearmanr(cosines(vectors[0::2], vectors[1::2]), quality_pairs(data)[1])
    return float(found.statistic) * 100


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="the folder with corpus_en, corpus_zh, tasks_en, parallel and vocab")
    parser.add_argument("--out", help="where results, models and the picture lie")
    parser.add_argument("--models", nargs="+", choices=[*TOKENS], default=[*TOKENS])
    parser.add_argument("--profiles", nargs="+", choices=[*PROFILES, LATENCY, QUALITY], help="all of them")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=[*ENGINES], metavar="ENGINE:PRECISION"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, help="7, or 2 with --quick")
    parser.add_argument(
        "--avx2", action="store_true", help="no instructions beyond AVX2 where that can be told"
    )
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the texts, two rounds")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.worker and not (options.data and options.out):
        parser.error("--data and --out are needed")
    return options


def main() -> None:
    options = parse()
    if options.worker:
        serve(json.loads(options.worker))
        return
    study = Study(options)
    for name in options.models:
        study.model(name)
    print(report(study.kept(), threads=options.threads, folder=study.results))


if __name__ == "__main__":
    main()
