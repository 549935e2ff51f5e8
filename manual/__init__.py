"""The blog's networks by hand: explicit torch tensor operations and nothing else.

Start with `eleven_lines`, then `two_layer`, `three_layer`, and `network` for any depth.
Imports torch alone; the gradients are derived here, never asked for.
"""
