"""The stages of ingestion, one by one: what `PageIndex.add` runs, and what engines for many machines run."""
