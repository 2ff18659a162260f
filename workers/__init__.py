"""Celery workers, and the loops around them: scheduler, inbox and notifier."""
