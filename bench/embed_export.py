"""The peers' forms of a model for bench/embed.py: ONNX, fused and quantised, and OpenVINO's, with NNCF.

Each file is made once, by a process of its own, and kept. The graphs pool by the mean themselves, so that
only a vector a text leaves the engine.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from embed_models import MOST
from numpy.typing import NDArray

Arrays = NDArray[Any]
Caller = Callable[[Arrays, Arrays], Arrays]
"""input_ids and attention_mask, `[batch, length]`, to vectors, `[batch, hidden_size]`."""

LEAST_COSINE = 0.99
"""What int8 must keep of fp32 on the calibration texts; what costs more than that stays in fp32."""


def read_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer in the `tokenizers` library, without padding, cut at the model's length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST)
    return tokenizer


def padded(rows: Sequence[Sequence[int]]) -> tuple[Arrays, Arrays]:
    """Rows filled up to the longest of them, and which tokens are real."""
    input_ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for number, row in enumerate(rows):
        input_ids[number, : len(row)] = row
        attention_mask[number, : len(row)] = 1
    return input_ids, attention_mask


def vectors_of(caller: Caller, rows: Sequence[Sequence[int]], size: int) -> Arrays:
    """All rows through a caller, in sorted batches, in the rows' order."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    vectors: Arrays = np.concatenate(
        [caller(*padded([rows[n] for n in order[i : i + size]])) for i in range(0, len(order), size)]
    )
    return vectors[np.argsort(order)]


def cosines(ours: Arrays, reference: Arrays) -> Arrays:
    """The cosine of each row with its counterpart."""
    products = (ours * reference).sum(axis=1, dtype=np.float64)
    return np.asarray(products / np.linalg.norm(ours, axis=1) / np.linalg.norm(reference, axis=1))


def open_onnx(path: Path, *, threads: int) -> Caller:
    """A session of ONNX Runtime with so many threads inside its operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(input_ids: Arrays, attention_mask: Arrays) -> Arrays:
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors: Arrays = session.run(None, feed)[0]
        return vectors

    return call


def export_onnx(folder: Path, work: Path) -> Path:
    """The model with its operators fused by ONNX Runtime's tool for transformers.

    Its patterns (whole attention, GELU with bias, norm with residual, embeddings) match what the older
    exporter writes with plain attention; of the newer exporter's graphs they fuse only the norms.
    """
    import torch
    from onnxruntime.transformers import optimizer
    from transformers import AutoConfig

    fused = work / "fused.onnx"
    if fused.exists():
        return fused
    plain, config = work / "plain.onnx", AutoConfig.from_pretrained(folder)
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        pooled_module(folder, "eager"), example(), plain, dynamo=False, opset_version=17,
        input_names=["input_ids", "attention_mask"], output_names=["vectors"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "vectors": {0: "batch"}},
    )  # fmt: skip
    heads, size = config.num_attention_heads, config.hidden_size
    model = optimizer.optimize_model(str(plain), "bert", num_heads=heads, hidden_size=size, opt_level=0)
    found = model.get_fused_operator_statistics()
    if found["Attention"] != config.num_hidden_layers:
        raise SystemExit(f"ONNX Runtime's optimizer fused {found}, not the attention of every layer")
    model.save_model_to_file(str(work / "fused.part"))
    plain.unlink()
    return (work / "fused.part").rename(fused)


def quantise_onnx(fused: Path, work: Path, rows: Sequence[Sequence[int]]) -> Path:
    """Dynamic int8: u8 activations, s8 weights with a scale a channel, all eight bits of both.

    Tried in turn: every linear layer; without the second of the feed-forward parts; without query, key and
    value; without both. The first that keeps `LEAST_COSINE` is taken, else the closest.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    final = work / "int8.onnx"
    if final.exists():
        return final
    graph = onnx.load(fused).graph
    wide = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and tensor.dims[0] > tensor.dims[1]
    }
    second = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] in wide]
    attention = [n.name for n in graph.node if n.op_type == "Attention"]
    reference = vectors_of(open_onnx(fused, threads=1), rows, 16)
    tried = {}
    for number, left_out in enumerate([[], second, attention, second + attention]):
        path = work / f"int8-{number}.part"
        quantize_dynamic(
            fused, path, per_channel=True, reduce_range=False, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Attention"], nodes_to_exclude=left_out,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        lowest = float(cosines(vectors_of(open_onnx(path, threads=1), rows, 16), reference).min())
        print(f"ONNX Runtime int8, {len(left_out)} layers left in fp32: lowest cosine {lowest:.4f}")
        tried[path] = lowest
        if lowest >= LEAST_COSINE:
            break
    best = max(tried, key=lambda path: tried[path])
    for path in tried:
        if path != best:
            path.unlink()
    return best.rename(final)


def export_openvino(folder: Path, work: Path) -> Path:
    """The model in OpenVINO's form, through its own reader of PyTorch, in full precision."""
    import openvino

    final = work / "openvino.xml"
    if final.exists():
        return final
    shapes = [(name, [-1, -1], np.int64) for name in ("input_ids", "attention_mask")]
    model = openvino.convert_model(pooled_module(folder, "sdpa"), example_input=example(), input=shapes)
    return _keep(model, final)


def quantise_openvino(plain: Path, work: Path, rows: Sequence[Sequence[int]]) -> Path:
    """int8 through NNCF after training, with its settings for transformers and 300 real texts."""
    import nncf
    import openvino

    final = work / "openvino-int8.xml"
    if final.exists():
        return final

    def samples() -> Iterator[dict[str, Arrays]]:
        for row in rows:
            input_ids, attention_mask = padded([row])
            yield {"input_ids": input_ids, "attention_mask": attention_mask}

    model = nncf.quantize(
        openvino.Core().read_model(plain), nncf.Dataset(list(samples())), subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED,
    )  # fmt: skip
    return _keep(model, final)


def _keep(model: Any, final: Path) -> Path:
    """Both files of OpenVINO's form, the one that is looked for at last."""
    import openvino

    part = final.with_name(f"part-{final.name}")
    openvino.save_model(model, part, compress_to_fp16=False)
    part.with_suffix(".bin").rename(final.with_suffix(".bin"))
    return part.rename(final)


def pooled_module(folder: Path, attention: str) -> Any:
    """The plain transformers model and the mean over its real tokens, in one module."""
    import torch
    from transformers import AutoModel

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
            self.eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            real = attention_mask.unsqueeze(-1).to(states.dtype)  # [batch, length, 1]
            return (states * real).sum(1) / real.sum(1)

    return Pooled()


def example() -> tuple[Any, Any]:
    """Inputs with padding, for the exporters to follow."""
    import torch

    mask = torch.ones(3, 17, dtype=torch.long)
    mask[1, 9:] = 0
    return torch.arange(51).view(3, 17) + 110, mask
