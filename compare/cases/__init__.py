"""The networks that `run` knows, their data, and the command line that asks for them."""
