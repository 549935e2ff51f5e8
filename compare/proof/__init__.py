"""The engine: bits, and formulas lifted to ball arithmetic with a sound bound on their rounding.

Imports nothing else of the project.
"""
