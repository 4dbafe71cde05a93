"""One file per model family; with `nemotron_rag.runtime` the only place that imports torch or transformers."""
