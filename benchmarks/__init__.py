"""Measurements of dynsvc, beside the tests because they take minutes. They use the tests' servers."""
