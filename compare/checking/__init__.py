"""`compare.check` and `compare.assert_same`: the verdict on a user's own backward pass.

This folder is not named `check`, because Python would bind it over the function `compare.check`.
"""
