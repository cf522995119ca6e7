"""Readers: what a file holds, as records in the names of whoever wrote it."""
