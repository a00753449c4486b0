"""What a run needs, looked for before it starts: data, its lists, weights, a GPU, disk space."""
