"""The code behind the LlamaIndex packages; import from `llama_index.*.nemotron_rag`, which re-export its names."""
