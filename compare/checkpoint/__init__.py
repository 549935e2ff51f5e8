"""A run kept so that it can go on: its state, the schema it is read by, the file."""
