"""Find and rank PDF pages by their pictures."""
