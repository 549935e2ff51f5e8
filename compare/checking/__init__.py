"""`compare.check` and `assert_same`: a verdict for anyone's backward pass.

The folder is not `check`: Python would bind it in place of the function `compare.check`.
"""
