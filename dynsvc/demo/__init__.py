"""The newcomer's demo: a whole installation on loopback, one order, and a page that shows the result."""
