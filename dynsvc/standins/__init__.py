"""Stand-ins for the hospital's servers, for the demo and for tests. Never part of an installation."""
