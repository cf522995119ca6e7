"""Configuration: files, keys and classes are read, checked, explained and saved with the run."""
