"""Is it any good on these documents? Judged queries, runs over them, and what they found, measured."""
