"""GPT-2's folders as OpenAI publishes them: model.ckpt, hparams.json, encoder.json, vocab.bpe."""

from polyseme.checkpoints.foreign.layouts import OPTIMIZER, Held, Layout, Rules


def layer_rules(foreign: str) -> dict[str, str | Held]:
    """Rules of the layers of GPT and GPT-2: kernels of width 1, inputs by outputs on both sides."""
    rules: dict[str, str | Held] = {}
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        theirs = f"{foreign}{name.replace('.', '/')}"
        rules[f"transformer.h.{{n}}.{name}.weight"] = Held((f"{theirs}/w",), squeezed=True)
        rules[f"transformer.h.{{n}}.{name}.bias"] = f"{theirs}/b"
    for name in ("ln_1", "ln_2"):
        rules[f"transformer.h.{{n}}.{name}.weight"] = f"{foreign}{name}/g"
        rules[f"transformer.h.{{n}}.{name}.bias"] = f"{foreign}{name}/b"
    return rules


RULES: Rules = {
    "transformer.wte.weight": "model/wte",
    "transformer.wpe.weight": "model/wpe",
    **layer_rules("model/h{n}/"),
    "transformer.ln_f.weight": "model/ln_f/g",
    "transformer.ln_f.bias": "model/ln_f/b",
}

GPT2 = Layout(
    family="gpt2",
    container="tensorflow",
    marks=("model/wte", "model/h0/attn/c_attn/w", "model/ln_f/g"),
    rules=RULES,
    # The output is the token table, so every folder holds the whole language model.
    architectures=(("", "GPT2LMHeadModel"),),
    settings=("hparams.json",),
    names={"n_vocab": "vocab_size", "n_ctx": "n_positions"},
    sizes={
        "vocab_size": ("model/wte", 0),
        "n_embd": ("model/wte", 1),
        "n_positions": ("model/wpe", 0),
    },
    counts={"n_layer": "model/h{n}/ln_1/g"},
    written={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    ignored=OPTIMIZER,
)
