"""The commands, a file for each; what each takes is in parser.py. They return the exit code."""
