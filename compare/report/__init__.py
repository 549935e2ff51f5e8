"""Reports on a check or a run, as text, HTML and JSON."""
