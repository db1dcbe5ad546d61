"""Feature extractors, one per file, each a plugin like somebody else's; `registry` makes them by name."""
