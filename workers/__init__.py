"""Celery, and nothing but Celery: who runs the stages, and when."""
