"""The settings beside a tokenizer: what each key of transformers' files means here.

A key that changes the ids and is not computed is refused by its name, and so is a key that nobody knows:
overlooked, it would give other vectors without a word.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyseme.errors import CheckpointError

KEEP = "keep_special_tokens"
"""Our own key: special tokens that a text may hold (see `Tokenizer.keeping`)."""

ROLE_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

HONOURED = {
    *ROLE_TOKENS,
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
    "added_tokens_decoder",
    "tokenizer_class",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "keep_accents",
    "extra_ids",
    "add_prefix_space",
    "model_input_names",
    "model_max_length",
    "max_len",
    KEEP,
}
"""Keys that decide something here as they do in transformers."""

_CALL = "a default of calls that pad or cut rows, which are made elsewhere here"
_CHAT = "about chats, which are not encoded"
_FILES = "where files lay; those beside are read"
_DECODING = "about decoding only"
_BOOKKEEPING = "transformers' own account of how it loads"

HARMLESS = {
    "padding_side": "rows are not padded",
    "pad_token_type_id": "rows are not padded",
    "pad_to_multiple_of": _CALL,
    "padding": _CALL,
    "padding_strategy": _CALL,
    "max_length": _CALL,
    "stride": _CALL,
    "truncation": _CALL,
    "truncation_strategy": _CALL,
    "return_token_type_ids": _CALL,
    "chat_template": _CHAT,
    "chat_control_tokens": _CHAT,
    "response_template": _CHAT,
    "response_schema": _CHAT,
    "use_default_system_prompt": _CHAT,
    "clean_up_tokenization_spaces": _DECODING,
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": _DECODING,
    "errors": _DECODING,
    "spaces_between_special_tokens": _DECODING,
    "name_or_path": _FILES,
    "special_tokens_map_file": _FILES,
    "tokenizer_file": _FILES,
    "vocab_file": _FILES,
    "merges_file": _FILES,
    "files_loaded": _FILES,
    "backend": _BOOKKEEPING,
    "use_fast": _BOOKKEEPING,
    "from_slow": _BOOKKEEPING,
    "is_local": _BOOKKEEPING,
    "local_files_only": _BOOKKEEPING,
    "verbose": _BOOKKEEPING,
    "processor_class": _BOOKKEEPING,
    "trust_remote_code": _BOOKKEEPING,
    "device_map": _BOOKKEEPING,
    "transformers_version": _BOOKKEEPING,
    "vocab_size": "counted in the vocabulary",
    "split_special_tokens": "the names of special tokens in a text are always text here",
    "legacy": "about what follows a special token inside a text, where none is found here",
    "trim_offsets": "about the offsets of blanks",
    "unk_id": "follows from the token",
    **{f"{name}_id": "follows from the token" for name in ROLE_TOKENS},
}
"""Keys that do not change the ids of a text, with the reason."""

USUAL: dict[str, tuple[Any, ...]] = {
    "do_basic_tokenize": (True,),
    "never_split": ([],),
    "wordpieces_prefix": ("##",),
    "clean_text": (True,),
    "remove_space": (True,),
    "add_bos_token": (False,),
    "add_eos_token": (False,),
    "truncation_side": ("right",),
    "sp_model_kwargs": ({},),
    "fix_mistral_regex": (False,),
    "init_inputs": ([],),
    "auto_map": ({},),
    "offset": (0,),
    "vocab": (),
    "merges": (),
    "tokenizer_object": (),
    "post_processor": (),
    "gguf_file": (),
}
"""Keys with the only values that are computed; with another value the folder is refused."""

_IN_JSON = {"add_bos_token", "add_eos_token", "remove_space", "clean_text", "wordpieces_prefix"}
"""Keys that say nothing where a tokenizer.json stands: transformers takes what that holds."""

_BERT = (
    "Bert",
    "DistilBert",
    "Electra",
    "MobileBert",
    "ConvBert",
    "LayoutLM",
    "RetriBert",
    "Ernie",
    "Albert",
)
_WORDPIECE = {
    *(f"{family}Tokenizer" for family in _BERT),
    "BertTokenizerLegacy",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "PreTrainedTokenizer",
    "TokenizersBackend",
}
COMPUTED: dict[str, set[str]] = {
    "vocab.txt": _WORDPIECE,
    "merges": {
        "GPT2Tokenizer",
        "RobertaTokenizer",
        "BartTokenizer",
        "LongformerTokenizer",
        "LEDTokenizer",
        "OpenAIGPTTokenizer",
        "PreTrainedTokenizer",
        "TokenizersBackend",
    },
    "sentencepiece": {
        "AlbertTokenizer",
        "XLNetTokenizer",
        "T5Tokenizer",
        "MT5Tokenizer",
        "XLMRobertaTokenizer",
        "LlamaTokenizer",
        "PreTrainedTokenizer",
        "TokenizersBackend",
    },
}
"""By the kind of the vocabulary's file: the values of `tokenizer_class`, without Fast, that cut as we do."""

CODE_ONLY = {
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "DiaTokenizer",
    "EsmTokenizer",
    "FSMTTokenizer",
    "FastSpeech2ConformerTokenizer",
    "FlaubertTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "JumanppTokenizer",
    "M2M100Tokenizer",
    "MarianTokenizer",
    "MecabTokenizer",
    "MgpstrTokenizer",
    "MyT5Tokenizer",
    "PLBartTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "Pop2PianoTokenizer",
    "ProphetNetTokenizer",
    "RagTokenizer",
    "RoCBertTokenizer",
    "RoFormerTokenizer",
    "SiglipTokenizer",
    "Speech2TextTokenizer",
    "SpeechT5Tokenizer",
    "TapasTokenizer",
    "TransfoXLTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "XLMTokenizer",
}
"""Classes that cut texts by code of their own: even a tokenizer.json beside them is not what is used."""


def check_settings(settings: Mapping[str, Any], path: Path, *, kind: str) -> None:
    """Refuse what changes the ids and is not computed; `kind` is one of `COMPUTED` or "tokenizer.json"."""
    _check_class(settings.get("tokenizer_class"), path, kind=kind)
    for key, value in settings.items():
        if key in HONOURED or key in HARMLESS or value is None:
            continue
        if key not in USUAL and _names_a_token(key, value):
            continue
        if key in USUAL and (value in USUAL[key] or (kind == "tokenizer.json" and key in _IN_JSON)):
            continue
        if key in USUAL:
            usual = f"; computed is {USUAL[key][0]!r}" if USUAL[key] else ""
            raise CheckpointError(
                f"the settings beside {path} have {key} {_shown(value)}, which is not computed{usual}"
            )
        raise CheckpointError(
            f"the settings beside {path} have the key {key[:60]!r}, which polyseme does not know; if it says "
            "nothing of how a text is cut, take it out of tokenizer_config.json"
        )


def _names_a_token(key: str, value: Any) -> bool:
    """Whether transformers takes a key for one more special token: image_token and the like."""
    return key.endswith("_token") and isinstance(value, str | dict)


def _check_class(name: Any, path: Path, *, kind: str) -> None:
    if name is None:
        return
    if not isinstance(name, str):
        raise CheckpointError(f"the settings beside {path} have a tokenizer_class that is no name")
    plain = name.removesuffix("Fast")
    computed = plain not in CODE_ONLY if kind == "tokenizer.json" else plain in COMPUTED[kind]
    if not computed:
        known = "" if kind == "tokenizer.json" else f"; of such files {', '.join(sorted(COMPUTED[kind]))} are"
        raise CheckpointError(
            f"the settings beside {path} name the tokenizer_class {name[:60]}, which is not computed{known}"
        )


def _shown(value: Any) -> str:
    """A value of whatever size, for a message; a number may have more digits than Python writes."""
    return type(value).__name__ if isinstance(value, int) and abs(value) >= 1 << 64 else repr(value)[:60]
