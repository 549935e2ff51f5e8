"""The blog's networks by hand, written as explicit torch tensor operations.

Read `eleven_lines` first, then `two_layer`, `three_layer`, and `network` for any number of layers.
The only import is torch. Every gradient is derived by hand; automatic differentiation is not used.

Shapes in this package: B is the number of rows (examples), I of inputs, H of hidden values, O of
outputs. "..." stands for leading dimensions: networks that are computed side by side.
"""
