"""The tests mirror the files; tests of claims stand beside them."""
