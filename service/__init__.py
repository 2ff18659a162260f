"""What Haulier knows and does. Never imports Celery, kombu or redis."""
