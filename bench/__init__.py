"""Speeds as ratios against named alternatives; `make bench` runs all of them."""
