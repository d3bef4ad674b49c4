"""The algorithms that come with dynsvc, one folder each."""
