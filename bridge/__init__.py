"""The bridge: Kue in, Celery out. Any number of bridges may run side by side."""
