"""Whole slides and large regions: cut into tiles, done by any number of workers, merged into one result."""
