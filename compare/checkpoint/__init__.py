"""Checkpoints, from which a stopped run resumes: their contents, file format and run folder."""
