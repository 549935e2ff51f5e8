"""What would make a WRONG quantity right, and what gives a ROUNDING one autograd's bits.

Imports the engine alone.
"""
