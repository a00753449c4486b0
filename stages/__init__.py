"""Command-line programs, among them the stages of `dvc.yaml`: `python -m stages.<name> --help`."""

from convirt import instructions

instructions.pin()
