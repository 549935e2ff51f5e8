"""Our steps beside those of others, timed in turn; each claim beside its figure."""
