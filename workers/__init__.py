"""What runs on a worker host: the Celery tasks and the runtimes that execute algorithms."""
