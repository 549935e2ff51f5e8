"""A run: both sides trained on what is drawn once, every step judged; on one process or several."""
