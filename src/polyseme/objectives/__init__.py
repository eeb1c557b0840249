"""What is predicted: the corruption and the loss of one objective in one file, and the table of them all."""

OBJECTIVES: dict[str, str] = {
    "masked-lm": "polyseme.objectives.masked_lm:MaskedLM",
    "causal-lm": "polyseme.objectives.causal_lm:CausalLM",
    "next-sentence": "polyseme.objectives.next_sentence:NextSentence",
    "span-corruption": "polyseme.objectives.span_corruption:SpanCorruption",
    "translation": "polyseme.objectives.translation:Translation",
}
"""Import paths, so that help and recipes never load torch."""
