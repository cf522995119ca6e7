"""The index of a corpus in Chroma: built, kept, checked, opened, embedded or on a server."""
