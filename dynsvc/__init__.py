"""dynsvc: containerised algorithms on whole-slide images, ordered through Kue, executed by Celery workers."""

__all__ = ["__version__"]

__version__ = "0.1.0"
