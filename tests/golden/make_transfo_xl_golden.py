"""Makes tests/data/transfo_xl.npz: Transformer-XL in transformers 4.35.2, the last release that computes it.

Run it in an environment of its own:

    python3 -m venv /tmp/xl && /tmp/xl/bin/pip install torch==2.13.0 'numpy<2' transformers==4.35.2
    /tmp/xl/bin/python tests/golden/make_transfo_xl_golden.py
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers

TARGET = Path(__file__).parent.parent / "data" / "transfo_xl.npz"
SIZES = {"d_embed": 8, "d_model": 8, "n_head": 2, "d_head": 3, "d_inner": 12, "n_layer": 2, "mem_len": 6}
CASES = {
    "plain": {"cutoffs": [], "div_val": 1, "clamp_len": -1, "same_length": False, "untie_r": True},
    "slices": {"cutoffs": [9, 17], "div_val": 1, "clamp_len": -1, "same_length": False, "untie_r": False},
    "tables": {"cutoffs": [9, 17], "div_val": 2, "clamp_len": 4, "same_length": True, "untie_r": True},
    "shared": {"cutoffs": [7, 14, 20], "div_val": 2, "clamp_len": 4, "same_length": True, "untie_r": False},
    "short": {"cutoffs": [12], "div_val": 4, "clamp_len": -1, "same_length": True, "untie_r": True},
}
VOCABULARY, ROWS, SEGMENTS = 27, 3, (5, 7, 4)


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for number, (name, choices) in enumerate(CASES.items()):
        config = transformers.TransfoXLConfig(vocab_size=VOCABULARY, **SIZES, **choices)
        model = transformers.TransfoXLLMHeadModel(config).eval()
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        # Otherwise the losses come cluster by cluster.
        model.crit.keep_order = True
        arrays[f"{name}.config"] = np.array(json.dumps(config.to_dict()))
        for key, tensor in model.state_dict().items():
            arrays[f"{name}.weights.{key}"] = tensor.numpy()
        memory = None
        for segment, length in enumerate(SEGMENTS):
            ids = torch.randint(0, VOCABULARY, (ROWS, length), generator=generator)
            with torch.no_grad():
                said = model(ids, mems=memory, labels=ids.clone(), output_hidden_states=True)
            memory = said.mems
            arrays[f"{name}.{segment}.ids"] = ids.numpy()
            arrays[f"{name}.{segment}.losses"] = said.losses.numpy()
            for layer, states in enumerate(said.hidden_states):
                arrays[f"{name}.{segment}.states.{layer}"] = states.numpy()
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, {len(arrays)} arrays")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main()
