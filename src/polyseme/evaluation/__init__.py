"""Fair comparisons: baselines, probes of frozen features."""
