"""Checks before a run of what it needs: data and their lists, weights, a GPU, disk space."""
