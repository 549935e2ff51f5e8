"""The blog's networks to rebuild from memory, in a file that is looked at line by line."""
