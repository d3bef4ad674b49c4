"""What executes an algorithm: one file for each implementation of :class:`dynsvc.runtime.Runtime`."""
