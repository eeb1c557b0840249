"""The processes of bench/embed.py: each holds one engine, answers questions, and sleeps between them.

Questions and answers are lines of JSON. What libraries print goes to a log. A process is stopped by a signal
while it is not asked, so that no thread of its pool that spins for work takes a core from the next engine.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from embed_models import LATENCY, QUALITY, Texts

REFERENCE = "transformers:fp32"
CLASSES = {
    "polyseme": "embed_engines:Polyseme",
    "sentence-transformers": "embed_engines:SentenceTransformers",
    "onnxruntime": "embed_engines:OnnxRuntime",
    "openvino": "embed_engines:OpenVino",
    "limit": "embed_limit:Limit",
    "transformers": "embed_engines:Reference",
}
EXPORTS = {
    "onnxruntime:fp32": ("export_onnx", "fused.onnx"),
    "onnxruntime:int8": ("quantise_onnx", "int8.onnx"),
    "openvino:fp32": ("export_openvino", "openvino.xml"),
    "openvino:bf16": ("export_openvino", "openvino.xml"),
    "openvino:int8": ("quantise_openvino", "openvino-int8.xml"),
}
"""What makes the form that an engine reads, and its file."""
BASES = {"quantise_onnx": "onnxruntime:fp32", "quantise_openvino": "openvino:fp32"}
"""A quantised form is made from another."""
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OV_CPU_MAX_ISA": "AVX2",
}
"""The switches of oneDNN (torch's copy and OpenVINO's), ATen, MKL and OpenVINO's own kernels. The kernels of
ONNX Runtime, which OpenVINO has a copy of for f32 products, ask the processor itself and have none."""


class Failed(Exception):
    """An engine refused, or its process ended."""


class Worker:
    """The other end of a process that holds an engine."""

    def __init__(self, engine: str, options: dict[str, Any], log: Path) -> None:
        self.engine, self.log = engine, log
        self.process = _started(options | {"engine": engine}, log)
        self.alive = True
        self._answer()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Wake the process, ask, wait for the answer, and stop it again."""
        if not self.alive:
            raise Failed("its process has ended")
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.alive = False
            raise Failed(f"its process ended with {self.process.wait()}; see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            if answer["fatal"]:
                self.end()
            raise Failed(answer["refused"])
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def end(self) -> None:
        """End the process, asleep or not."""
        if self.alive:
            self.alive = False
            self.process.kill()
            self.process.wait()


def _started(options: dict[str, Any], log: Path) -> subprocess.Popen[str]:
    threads = str(options["threads"])
    environment = os.environ | {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    if options["avx2"]:
        environment |= AVX2
    command = [sys.executable, str(Path(__file__).with_name("embed.py")), "--worker", json.dumps(options)]
    with log.open("a") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )


def export(options: dict[str, Any], calibration: Path, engines: Sequence[str]) -> None:
    """Make what the peers read and does not exist yet, with all instructions, whatever they may use later."""
    needed: list[tuple[str, str]] = []
    for engine in engines:
        if engine in EXPORTS:
            function, file = EXPORTS[engine]
            base = [EXPORTS[BASES[function]]] if function in BASES else []
            needed += [step for step in (*base, (function, file)) if step not in needed]
    for function, file in needed:
        if (Path(options["work"]) / file).exists():
            continue
        log = Path(options["work"]) / "log.txt"
        made = options | {"engine": "", "export": function, "texts": str(calibration), "avx2": False}
        process = _started(made, log)
        process.communicate()
        if process.returncode:
            print(f"{function} failed with {process.returncode}; see {log}", file=sys.stderr, flush=True)


def serve(options: dict[str, Any]) -> None:
    """What runs in the process: bind it to its cores, then make one form, or answer until the end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no process sleeps on without its parent
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])
    if "export" in options:
        _export(options)
        return

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    from embed_engines import Refused

    try:
        service = _Service(options)
    except Refused as refusal:
        answer(refused=str(refusal), fatal=True)
        return
    answer(ready=True)
    for line in sys.stdin:
        try:
            question = json.loads(line)
            answer(**getattr(service, question.pop("do"))(**question))
        except Refused as refusal:
            answer(refused=str(refusal), fatal=False)


def _export(options: dict[str, Any]) -> None:
    import embed_export

    if "torch" in sys.modules or options["export"].startswith("export"):
        import torch

        torch.set_num_threads(options["threads"])
    folder, work = Path(options["folder"]), Path(options["work"])
    if options["export"] in BASES:
        base = work / EXPORTS[BASES[options["export"]]][1]
        encode = embed_export.read_tokenizer(folder).encode
        rows = [encode(text).ids for text in Texts.read(Path(options["texts"])).texts[:300]]
        getattr(embed_export, options["export"])(base, work, rows)
    else:
        getattr(embed_export, options["export"])(folder, work)


class _Service:
    """One engine and the profile that it was prepared for."""

    def __init__(self, options: dict[str, Any]) -> None:
        from embed_engines import Engine, Job

        name, precision = options["engine"].split(":")
        self.name = options["engine"].replace(":", "-")
        self.work = Path(options["work"])
        module, made = CLASSES[name].split(":")
        job = Job(Path(options["folder"]), self.work, precision, options["threads"])
        if name != "onnxruntime" and name != "openvino":
            import torch

            torch.set_num_threads(options["threads"])
        self.engine: Engine = getattr(import_module(module), made)(job)
        self.profile, self.vectors = "", None

    def prepare(self, texts: str, profile: str) -> dict[str, Any]:
        """Choose, run once over all texts, and begin to count memory."""
        self.texts, self.profile = Texts.read(Path(texts)).texts, profile
        if profile == LATENCY:
            setting = self.engine.choose_single(self.texts)
            self.round(len(self.texts))
        else:
            setting = self.engine.choose(self.texts)
            self.vectors = None if profile == QUALITY else self.engine.encode(self.texts)
        forget_peak()
        return {"setting": setting, "instructions": self.engine.instructions()}

    def round(self, calls: int) -> dict[str, Any]:
        """The seconds of one turn: over all texts, or of each of some that come alone."""
        if self.profile == LATENCY:
            seconds = []
            for text in self.texts[:calls]:
                begin = time.perf_counter()
                self.engine.single(text)
                seconds.append(time.perf_counter() - begin)
            return {"seconds": seconds, "cpu": 0.0}
        begin, used = time.perf_counter(), time.process_time()
        self.vectors = self.engine.encode(self.texts)
        return {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - used}

    def finish(self) -> dict[str, Any]:
        """The peak of memory in MiB, and where the vectors lie."""
        if self.vectors is None and self.profile == QUALITY:
            self.vectors = self.engine.encode(self.texts)
        path = None
        if self.vectors is not None and self.profile != LATENCY:
            path = self.work / f"vectors-{self.name}.npy"
            np.save(path, self.vectors)
        return {"memory": peak(), "vectors": str(path) if path else None}


def forget_peak() -> None:
    """Give freed memory back, and let the kernel count the peak of this process anew (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """The most memory that was resident at once, in MiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
