"""Files of other frameworks, read as tensors by name without the framework."""
