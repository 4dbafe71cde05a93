"""How the starter weights are made: data, tokenizer, stages, export, evaluation. Not installed with the library."""
