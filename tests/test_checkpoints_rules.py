"""Tables of names read forwards and backwards say the same."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from polyseme.checkpoints.formats import (
    ACTIVATIONS,
    FORMATS,
    Format,
    config_json,
    format_of,
    read_config,
)
from polyseme.checkpoints.loading import build_head
from polyseme.checkpoints.model import HEADS
from polyseme.checkpoints.rules import Folded, Holding, Translation, Transposed
from polyseme.errors import CheckpointError
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.records import flat, from_plain, nested

ALL_GLOBAL = {"attention.window": None, "attention.global_every": None}
SMALL = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_heads": 2,
    "intermediate_size": 32,
    "num_layers": 11,
    "padding_id": 0,
}


def config_of(format: Format, **changes: object) -> TransformerConfig:
    """A small configuration as the family's folders say it, with changes that they may not be able to say."""
    sizes = SMALL | {name: value for name, value in changes.items() if name == "padding_id"}
    plain = {format.names[name]: value for name, value in sizes.items() if name in format.names}
    said = read_config(
        format, plain, where="here", pooler=bool(format.rules["pooler"]), decoder="decoder" in format.rules
    )
    return from_plain(nested({**flat(said), **changes}), TransformerConfig, where="here")


def names_of(format: Format) -> dict[str, tuple[int, ...]]:
    """Every parameter that a model of the family can have, biases included, with its shape."""
    own_table = {"embedding.tied": False, "decoder.scaled_output": False}
    config = config_of(format, bias=True, **(own_table if "decoder" in format.rules else {}))
    modules: dict[str, nn.Module] = {"": build(config)}
    pooling = next(iter(format.poolings))
    modules |= {
        f"{head}.": build_head(head, config, 3, format.reading(head, pooling))
        for head in HEADS
        if head in format.rules
    }
    return {
        prefix + name: tuple(tensor.shape)
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> Format:
    return format_of(request.param)


def test_every_parameter_has_one_foreign_name_that_leads_back_to_it(format: Format) -> None:
    names = names_of(format)
    for part, rules in format.rules.items():
        table = Translation({**rules, **format.more_rules(config_of(format))})
        heads = tuple(f"{head}." for head in (*format.marks, "decoder"))
        own = [
            n for n in names if n.startswith(f"{part}.") or (part == "backbone" and not n.startswith(heads))
        ]
        for name in own:
            if part == "backbone" and name.startswith("pooler."):
                continue
            theirs = table.theirs(name)
            assert theirs is not None
            assert name in (table.ours(theirs) or ())
            groups = table.groups(table.ours(theirs) or ())
            assert list(groups) == [theirs]


def test_tensors_joined_and_cut_come_back_unchanged(format: Format) -> None:
    generator = torch.Generator().manual_seed(0)
    names = names_of(format)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
    for part, rules in format.rules.items():
        table = Translation(
            {**rules, **format.more_rules(config_of(format))} if part == "backbone" else rules
        )
        own = [name for name in names if table.theirs(name) is not None]
        assert own or not rules, part
        for holding in table.groups(own).values():
            joined = holding.join(tensors)
            assert tuple(joined.shape) == holding.shape(names)
            back = holding.cut(joined, names)
            assert all(torch.equal(back[name], tensors[name]) for name in holding.ours)


def test_a_transposed_tensor_holds_inputs_by_outputs_side_by_side() -> None:
    table = Translation({"h.{n}.c_attn.": Transposed("layers.{n}.query.", "layers.{n}.key.")})
    names = {"layers.3.query.weight": (2, 3), "layers.3.key.weight": (4, 3)}
    tensors = {name: torch.randn(shape) for name, shape in names.items()}
    (holding,) = table.groups(names).values()
    assert holding == Holding(tuple(names), transposed=True)
    assert holding.shape(names) == (3, 6)
    joined = holding.join(tensors)
    assert torch.equal(joined[:, :2], tensors["layers.3.query.weight"].t())
    assert torch.equal(joined[:, 2:], tensors["layers.3.key.weight"].t())
    back = holding.cut(joined.contiguous(), names)
    assert all(torch.equal(back[name], tensors[name]) and back[name].is_contiguous() for name in names)


def test_a_vector_is_the_same_in_a_transposed_tensor() -> None:
    table = Translation({"h.{n}.c_attn.": Transposed("layers.{n}.query.", "layers.{n}.key.")})
    tensors = {"layers.0.query.bias": torch.randn(2), "layers.0.key.bias": torch.randn(4)}
    (holding,) = table.groups(tensors).values()
    assert torch.equal(holding.join(tensors), torch.cat(list(tensors.values())))
    assert holding.shape({"layers.0.query.bias": (2,), "layers.0.key.bias": (4,)}) == (6,)


def test_modernberts_joined_tensors_hold_query_key_value_and_input_before_gate() -> None:
    table = Translation(format_of("modernbert").rules["backbone"])
    assert table.ours("model.layers.10.attn.Wqkv.weight") == (
        "layers.10.attention.query.weight",
        "layers.10.attention.key.weight",
        "layers.10.attention.value.weight",
    )
    assert table.ours("model.layers.0.mlp.Wi.bias") == (
        "layers.0.feedforward.input.bias",
        "layers.0.feedforward.gate.bias",
    )


@pytest.mark.parametrize(
    "name", ["model.layers.01.attn.Wo.weight", "model.layers.x.attn.Wo.weight", "model.layers.1.attn.Wo", ""]
)
def test_a_name_that_only_resembles_one_of_the_table_is_unknown(name: str) -> None:
    assert Translation(format_of("modernbert").rules["backbone"]).ours(name) is None


def test_a_parameter_without_a_rule_is_our_own_mistake() -> None:
    with pytest.raises(LookupError, match=r"no rule says where .*memory is stored"):
        Translation(format_of("bert").rules["backbone"]).groups(["layers.0.memory"])


def test_settings_come_back_unchanged(format: Format) -> None:
    for number, activation in enumerate(dict.fromkeys(format.activations.values())):
        changes = {
            "activation": activation,
            "dropout": 0.1 * number,
            "layer_norm_eps": 1e-7,
            "padding_id": number,
            "max_position_embeddings": 99,
            "attention_dropout": 0.3,
            "initial.range": 0.5,
        }
        # What has no name of its own follows from others in the family.
        named = {*format.names, *({"dropout"} if "attention_dropout" in format.names else ())} - {
            *format.fixed
        }
        said = {name: value for name, value in changes.items() if name in named}
        config = config_of(format, **said)
        plain = config_json(format, config)
        decoder = config.decoder is not None
        assert read_config(format, plain, where="here", pooler=config.pooler, decoder=decoder) == config


def test_every_activation_is_known_by_one_name_that_is_written() -> None:
    written = {
        ours: next(name for name, ours_too in ACTIVATIONS.items() if ours_too == ours)
        for ours in ACTIVATIONS.values()
    }
    assert written == {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("bert", {"gated": True}, "a bert folder cannot say gated=True; in this family it is False"),
        ("bert", {"bias": False}, "cannot say bias=False"),
        ("bert", {"positions": "rotary"}, "cannot say positions='rotary'"),
        ("bert", {"type_vocab_size": 0}, "cannot say type_vocab_size=0"),
        ("modernbert", {"type_vocab_size": 2}, "a modernbert folder cannot say type_vocab_size=2"),
        ("modernbert", {"positions": "learned", **ALL_GLOBAL}, "cannot say positions='learned'"),
        ("modernbert", {"pooler": True}, "cannot say pooler=True"),
        ("modernbert", {"gated": False}, "cannot say gated=False"),
    ],
)
def test_a_choice_that_the_folder_cannot_say_is_refused(
    family: str, changes: dict[str, object], message: str
) -> None:
    format = format_of(family)
    config = config_of(format, **changes)
    with pytest.raises(CheckpointError, match=message):
        config_json(format, config)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="family 't7' cannot be read or written; known are bert, "):
        format_of("t7")


def test_the_tables_are_read_without_torch() -> None:
    program = (
        "import sys, polyseme.checkpoints.hub, polyseme.checkpoints.model\n"
        "from polyseme.checkpoints.formats import FORMATS, format_of\n"
        "assert all(format_of(family).family == family for family in FORMATS)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_folded_tensor_has_the_dimensions_of_another_one_of_ours() -> None:
    table = Translation(
        {
            "layer.{n}.q": Folded(Transposed("layers.{n}.query.weight"), like="layers.{n}.bias"),
            "layer.{n}.o": Folded("layers.{n}.output.weight", like="layers.{n}.bias"),
            "layer.{n}.b": "layers.{n}.bias",
        }
    )
    tensors = {
        "layers.7.query.weight": torch.arange(30.0).view(6, 5),
        "layers.7.output.weight": torch.arange(30.0, 60.0).view(5, 6),
        "layers.7.bias": torch.zeros(2, 3),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    groups = table.groups(tensors)
    assert {name: holding.shape(shapes) for name, holding in groups.items()} == {
        "layer.7.q": (5, 2, 3), "layer.7.o": (5, 2, 3), "layer.7.b": (2, 3),
    }  # fmt: skip
    theirs = {name: holding.join(tensors) for name, holding in groups.items()}
    # Small whole numbers: their products are exact in any order.
    generator = torch.Generator().manual_seed(0)
    states = torch.randint(-3, 4, (4, 5), generator=generator).float()
    heads = torch.randint(-3, 4, (4, 2, 3), generator=generator).float()
    assert torch.allclose(
        torch.einsum("bd,dhn->bhn", states, theirs["layer.7.q"]).flatten(1),
        states @ tensors["layers.7.query.weight"].T,
    )
    assert torch.allclose(
        torch.einsum("bhn,dhn->bd", heads, theirs["layer.7.o"]),
        heads.flatten(1) @ tensors["layers.7.output.weight"].T,
    )
    for name, holding in groups.items():
        for ours, tensor in holding.cut(theirs[name], shapes).items():
            assert torch.equal(tensor, tensors[ours])
            assert tensor.is_contiguous()


def test_a_foreign_name_may_hold_one_tensor_or_another() -> None:
    table = Translation({"table.0.weight": "tokens.weight", "table.{n}.": "tables.{n}."})
    assert table.groups(["tokens.weight"]) == {"table.0.weight": Holding(("tokens.weight",))}
    assert table.groups(["tables.0.weight"]) == {"table.0.weight": Holding(("tables.0.weight",))}
