"""Command-line programs, the stages of `dvc.yaml` first: `python -m stages.<name> --help`."""
