"""The user's forward and backward passes at some inputs: called, and traced as programs."""
