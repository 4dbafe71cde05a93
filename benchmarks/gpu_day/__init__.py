"""All that is to be known of this project on a GPU, in one command that is bounded by its own clock."""
