"""Candidate fixes: for a WRONG quantity, and for a ROUNDING one to match autograd bit for bit.

Imports only `compare.proof`.
"""
