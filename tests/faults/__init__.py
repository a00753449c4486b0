"""Sturdiness: what a stage leaves behind when something goes wrong around it.

    pytest tests/faults                      # a few moments of each stage, as in CI
    FAULT_MOMENTS=20 pytest tests/faults     # 20 of each kind

`steps` is a small project, `world` runs each of its stages once undisturbed and keeps the bytes as
the truth. A test copies what a stage reads, lets something happen to it (`injection`), runs it
again and compares. Stages are forks of one process (`fork_server`), of which `processes` is the
other end; `moments` draws when something happens. Linux only.
"""
