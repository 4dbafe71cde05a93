"""Benchmarks of this project and its peers on the same weights; not installed with the package."""
