"""Robustness: what a stage leaves behind when something goes wrong around it.

    pytest tests/faults                      # a few moments of each stage, as in CI
    FAULT_MOMENTS=20 pytest tests/faults     # 20 of each kind

`steps` defines a small project; `world` runs each of its stages once undisturbed and keeps the
bytes as the truth. A test copies what a stage reads, disturbs its run (`injection`), runs it again
and compares. Stages run as forks of one process (`fork_server`), to which `processes` talks;
`moments` draws when something happens. Linux only.
"""
