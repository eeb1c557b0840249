"""Published fine-tunings as settings: what a preset says holds where the user said nothing else."""

from collections.abc import Mapping
from typing import Any

from polyseme.errors import SettingsError
from polyseme.records import nearest

PRESETS: dict[str, dict[str, Any]] = {
    # Devlin et al. 2019, section 4.1: 3 epochs, batches of 32, the rate chosen from 5e-5 to 2e-5.
    "bert": {"learning_rate": 3e-5, "epochs": 3, "batch_size": 32, "warmup": 0.1, "weight_decay": 0.01},
    # Devlin et al. 2019, section 5.3: the last four layers side by side, a BiLSTM of 2 layers of 768.
    "bert-features": {
        "way": "frozen",
        "layers": "-4:-1",
        "feature_head": "bilstm",
        "lstm_size": 768,
        "lstm_layers": 2,
    },
    # Peters et al. 2018, equation 1: a learned mix of all layers, that of the tokens included.
    "elmo-features": {
        "way": "frozen",
        "layers": "weighted:0:-1",
        "feature_head": "bilstm",
        "lstm_layers": 1,
    },
    # Kim 2014, on the vectors of a frozen network's last layer.
    "textcnn": {"way": "frozen", "layers": "-1", "feature_head": "cnn", "filters": 100, "dropout": 0.5},
    # Howard and Ruder 2018, sections 3.2 and 3.3: each layer at the rate of the one above by 2.6, slanted
    # triangles with a cut of 0.1, one layer more in each epoch.
    "ulmfit": {
        "way": "gradual",
        "layer_decay": 1 / 2.6,
        "schedule": "slanted-triangular",
        "warmup": 0.1,
        "stage_epochs": 1,
    },
    # Clark et al. 2020, appendix B, for the base model (small: 3e-4; large: 5e-5 and a decay of 0.9).
    "electra": {
        "learning_rate": 1e-4,
        "layer_decay": 0.8,
        "epochs": 3,
        "batch_size": 32,
        "warmup": 0.1,
        "weight_decay": 0.0,
    },
    # Radford et al. 2018, section 4.1; the language model's own loss beside it is lm_weight 0.5.
    "gpt": {
        "learning_rate": 6.25e-5,
        "epochs": 3,
        "batch_size": 32,
        "warmup": 0.002,
        "schedule": "warmup-times-linear",
        "weight_decay": 0.01,
    },
    # The schedule of Chinese business practice for a fresh head: alone until it improves no more, then all.
    "head-first": {
        "way": "head-first",
        "head_learning_rate": 1e-3,
        "head_patience": 3,
        "learning_rate": 3e-5,
    },
    # Schick and Schütze 2021, section 4: 1e-5, batches of 16, no warm-up; the pattern is the user's.
    "pet": {"way": "filling", "learning_rate": 1e-5, "batch_size": 16, "warmup": 0.0},
}
"""By name, options of `finetune`."""


def with_preset(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options, and those of the preset they name wherever they are absent or say what is usual anyway."""
    name = options.get("preset")
    if name is None:
        return dict(options)
    if name not in PRESETS:
        raise SettingsError(
            f"there is no preset {name!r}{nearest(name, list(PRESETS))}; choose {', '.join(PRESETS)}"
        )
    said = {option: value for option, value in options.items() if value != defaults.get(option)}
    return {**options, **PRESETS[name], **said}
