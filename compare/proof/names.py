"""The names that are ours and not the user's."""

OURS = "grad_output", "output"  # of several outputs numbered, as output[1]


def numbered_from(name: str) -> str:
    """Return `output` of output[1]; a name of the user's own is itself, w[1] too."""
    own = name.partition("[")[0]
    return own if own in OURS else name
