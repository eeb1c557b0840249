"""The training loop, optimizers, schedules, exact state, and recipes read."""
