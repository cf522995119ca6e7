"""The index of a corpus in Chroma: built, stored, checked, opened, embedded or on a server."""
