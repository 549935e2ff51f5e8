"""The contract of a backward pass beyond the one call that is judged: other calls, and a line each.

Knows the two passes and `proof`; `check` asks it, and a report tells its lines.
"""
