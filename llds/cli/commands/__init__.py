"""The commands beside training, a file each."""
