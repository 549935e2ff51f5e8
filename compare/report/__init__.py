"""What was found, and how it is shown: text, HTML, JSON."""
