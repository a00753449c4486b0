"""Benchmarks: speeds as ratios to named alternatives; `make bench` runs all of them."""
