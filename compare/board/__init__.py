"""The run folder and how to look at it: curves, pictures, the per-step log, TensorBoard."""
