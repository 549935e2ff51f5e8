"""A training run: both sides take the same steps from the same data, and every step is judged."""
