"""One command-line program for each box of `dvc.yaml`: `python -m stages.<name> --help`."""
