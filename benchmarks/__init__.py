"""Measures this project beside its peers on the same weights, in one run; not installed with the package."""
