"""The fast path: a trained transformer compiled for inference on packed tokens."""
