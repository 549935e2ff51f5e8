"""Runs a user's code in a separate process with limits; nothing that it starts survives."""
