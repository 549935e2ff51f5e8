"""Practice: rebuild the blog's networks from memory, in a file that is checked line by line."""
