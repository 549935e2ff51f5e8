"""The engine that proves verdicts, from bits, ball arithmetic and rounding bounds.

It imports nothing else of the project, apart from torch's private names in compare/torch_private.
"""
