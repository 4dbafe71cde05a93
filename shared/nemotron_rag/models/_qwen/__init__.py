"""What the Qwen-VL families share: network, vision tower, pixels, tokenizer."""
