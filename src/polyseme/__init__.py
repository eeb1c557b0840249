"""The whole life of pre-trained language models, from raw text to served vectors."""
