"""Someone's code in a process of its own, with limits, that nothing of it outlives."""
