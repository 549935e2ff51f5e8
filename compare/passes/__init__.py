"""Someone's forward and backward at some inputs: run, and read as programs."""
