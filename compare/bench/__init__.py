"""Benchmarks: this project's training steps and checks against other implementations."""
