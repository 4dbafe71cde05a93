"""What the Llama-Nemotron families share: network, tiles, tokenizer, prompts."""
