"""Measurements of speed and memory. Not tests: run them one at a time, on a machine that does
nothing else."""
