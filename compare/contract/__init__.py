"""The contract of a backward pass: properties that calls other than the judged one have to keep.

Each property is a line of the report. This folder knows `passes` and `proof`; `check` uses it.
"""
