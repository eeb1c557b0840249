"""The engines of bench/embed.py: a class each, made for a model and a precision, from texts to vectors."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import embed_export
import numpy as np
from embed_export import Arrays, Caller, padded
from embed_models import MOST


class Refused(Exception):
    """An engine says that it has no such precision here."""


@dataclass(frozen=True)
class Job:
    """What a worker was started for."""

    folder: Path
    """The model as transformers reads it."""
    work: Path
    """Where the peers' forms of the model lie."""
    precision: str
    threads: int


class Engine(Protocol):
    def choose(self, texts: Sequence[str]) -> str:
        """Settle what the engine leaves to its user, on texts of the kind that will be measured; in words."""

    def encode(self, texts: Sequence[str]) -> Arrays | None:
        """One vector a text."""

    def choose_single(self, texts: Sequence[str]) -> str:
        """The same for texts that come one at a time."""

    def single(self, text: str) -> Any:
        """The vector of a text that comes alone."""

    def instructions(self) -> str:
        """What the engine says of the instructions that it uses."""


def quickest(tries: dict[Any, Callable[[], Any]], *, repeats: int = 2) -> Any:
    """The key of the call that took the least time in turns with the others, after one call to warm up."""
    taken: dict[Any, list[float]] = {key: [] for key in tries}
    for _ in range(1 + repeats):
        for key, call in tries.items():
            begin = time.perf_counter()
            call()
            taken[key].append(time.perf_counter() - begin)
    return min(taken, key=lambda key: min(taken[key][1:]))


def few(texts: Sequence[str]) -> Sequence[str]:
    """Enough of the texts to compare settings on: a sixth, at least sixteen."""
    return texts[: max(16, len(texts) // 6)]


def sizes(texts: Sequence[str]) -> list[int]:
    """Batch sizes to try on a few texts: for long ones small sizes, up to what a cache can hold."""
    middle = statistics.median(len(text) / 4.5 if text.isascii() else len(text) for text in texts)
    found = [size for size in (1, 2, 4, 8, 16, 32, 64, 128) if 120 <= size * middle <= 6_000]
    return [size for size in found if size <= len(texts)] or [8]


class Polyseme:
    """Ours: it chooses everything itself."""

    def __init__(self, job: Job) -> None:
        from polyseme.embedding.embedder import Embedder
        from polyseme.errors import PolysemeError

        try:
            self.embedder = Embedder.load(
                job.folder, precision=job.precision, pooling="mean", threads=job.threads, max_length=MOST
            )
        except PolysemeError as error:
            raise Refused(str(error)) from error

    def choose(self, texts: Sequence[str]) -> str:
        return "its own choice"

    def encode(self, texts: Sequence[str]) -> Arrays:
        return self.embedder.sentences(texts)

    def choose_single(self, texts: Sequence[str]) -> str:
        return "its own choice"

    def single(self, text: str) -> Arrays:
        return self.embedder.sentences([text])

    def instructions(self) -> str:
        return torch_instructions()


class SentenceTransformers:
    """Its own sorting and padding, at the best batch size."""

    def __init__(self, job: Job) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job.precision]
        self.model = SentenceTransformer(str(job.folder), device="cpu", model_kwargs={"dtype": dtype})
        self.model.max_seq_length = MOST
        self.threads, self.size = job.threads, 32

    def choose(self, texts: Sequence[str]) -> str:
        import torch

        torch.set_num_threads(self.threads)
        sample = few(texts)
        self.size = quickest({size: lambda size=size: self._run(sample, size) for size in sizes(sample)})
        return f"batch {self.size}"

    def encode(self, texts: Sequence[str]) -> Arrays:
        return self._run(texts, self.size)

    def _run(self, texts: Sequence[str], size: int) -> Arrays:
        vectors = self.model.encode(list(texts), batch_size=size, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def choose_single(self, texts: Sequence[str]) -> str:
        import torch

        def with_threads(threads: int) -> None:
            torch.set_num_threads(threads)
            for text in texts[:10]:
                self.single(text)

        threads = quickest({n: lambda n=n: with_threads(n) for n in {1, self.threads}})
        torch.set_num_threads(threads)
        return f"{threads} threads"

    def single(self, text: str) -> Arrays:
        return self._run([text], 1)

    def instructions(self) -> str:
        return torch_instructions()


def torch_instructions() -> str:
    import torch

    return f"torch {torch.backends.cpu.get_cpu_capability()}"


class Batched:
    """What the compiled peers share: batches sorted by length, at the best size, in the better of two ways.

    With n threads, either one batch at a time has all of them, or n batches at a time have one each.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tokenizer = embed_export.read_tokenizer(job.folder)
        self.callers: list[Caller] = []
        self.size = 16
        self._use(1)

    def open(self, callers: int) -> list[Caller]:
        """So many callers that share the threads of the job."""
        raise NotImplementedError

    def _use(self, callers: int) -> None:
        self.callers = []
        self.callers = self.open(callers)
        self.pool = ThreadPoolExecutor(callers)

    def choose(self, texts: Sequence[str]) -> str:
        sample = few(texts)
        best, least = (1, 16), float("inf")
        for callers in sorted({1, self.job.threads}):
            self._use(callers)
            tries = {size: lambda size=size: self._run(sample, size) for size in sizes(sample)}
            size = quickest(tries)
            begin = time.perf_counter()
            tries[size]()
            taken = time.perf_counter() - begin
            if taken < least:
                best, least = (callers, size), taken
        if len(self.callers) != best[0]:
            self._use(best[0])
        self.size = best[1]
        return f"batch {self.size}, {best[0]} at a time"

    def encode(self, texts: Sequence[str]) -> Arrays:
        return self._run(texts, self.size)

    def _run(self, texts: Sequence[str], size: int) -> Arrays:
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        order = np.argsort([-len(row) for row in rows], kind="stable")
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        waiting = iter(batches)  # a list's iterator hands each batch to one thread only
        parts: list[tuple[Arrays, Arrays]] = []

        def work(caller: Caller) -> None:
            for numbers in waiting:
                parts.append((numbers, caller(*padded([rows[n] for n in numbers]))))

        if len(self.callers) == 1:
            work(self.callers[0])
        else:
            list(self.pool.map(work, self.callers))
        vectors: Arrays = np.empty((len(rows), parts[0][1].shape[1]), dtype=np.float32)
        for numbers, part in parts:
            vectors[numbers] = part
        return vectors

    def choose_single(self, texts: Sequence[str]) -> str:
        taken = {}
        for callers in sorted({1, self.job.threads}):
            self._use(callers)
            for _ in range(2):
                begin = time.perf_counter()
                for text in texts[:20]:
                    self.single(text)
                taken[callers] = time.perf_counter() - begin
        best = min(taken, key=lambda callers: taken[callers])
        self._use(best)
        return f"{self.job.threads // best} threads"

    def single(self, text: str) -> Arrays:
        return self.callers[0](*padded([self.tokenizer.encode(text).ids]))

    def instructions(self) -> str:
        raise NotImplementedError


class OnnxRuntime(Batched):
    """The fused graph, in fp32 or with dynamic int8."""

    def open(self, callers: int) -> list[Caller]:
        names = {"fp32": "fused.onnx", "int8": "int8.onnx"}
        threads = self.job.threads // callers
        caller = embed_export.open_onnx(self.job.work / names[self.job.precision], threads=threads)
        return [caller] * callers

    def instructions(self) -> str:
        return "all of the processor (it has no switch)"


class OpenVino(Batched):
    """f32, bf16, or NNCF's int8 with the rest in the best precision that there is."""

    def open(self, callers: int) -> list[Caller]:
        import openvino

        core = openvino.Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.job.precision == "bf16" and not has_bf16:
            raise Refused("OpenVINO has no bf16 with these instructions")
        rest = (
            "bf16" if self.job.precision == "bf16" or (self.job.precision == "int8" and has_bf16) else "f32"
        )
        name = "openvino-int8.xml" if self.job.precision == "int8" else "openvino.xml"
        self.model = core.compile_model(
            self.job.work / name, "CPU",
            {"INFERENCE_NUM_THREADS": self.job.threads, "NUM_STREAMS": callers,
             "INFERENCE_PRECISION_HINT": rest, "ENABLE_CPU_PINNING": False},
        )  # fmt: skip
        return [self._caller(self.model.create_infer_request()) for _ in range(callers)]

    def _caller(self, request: Any) -> Caller:
        def call(input_ids: Arrays, attention_mask: Arrays) -> Arrays:
            vectors: Arrays = request.infer([input_ids, attention_mask])[0].copy()
            return vectors

        return call

    def instructions(self) -> str:
        found = set()
        for node in self.model.get_runtime_model().get_ops():
            told = node.get_rt_info()
            if told["layerType"].astype(str) in ("FullyConnected", "MatMul", "Subgraph", "MVN"):
                found.add(told["primitiveType"].astype(str))
        return " ".join(sorted(found))


class Reference:
    """The plain transformers model in fp32, one text at a time: nothing is padded, nothing is fused."""

    def __init__(self, job: Job) -> None:
        self.tokenizer = embed_export.read_tokenizer(job.folder)
        self.module = embed_export.pooled_module(job.folder, "eager")

    def choose(self, texts: Sequence[str]) -> str:
        return "one at a time"

    def encode(self, texts: Sequence[str]) -> Arrays:
        import torch

        with torch.inference_mode():
            rows = [self._one(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]
        return np.concatenate(rows)

    def _one(self, ids: Sequence[int]) -> Arrays:
        import torch

        vectors: Arrays = self.module(*(torch.from_numpy(array) for array in padded([ids]))).numpy()
        return vectors

    def instructions(self) -> str:
        return torch_instructions()
