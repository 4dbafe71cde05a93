"""What the Nemotron 3 and 3.5 families share: Pixtral tower, bidirectional Ministral, pixels, prompts, tokenizer."""
