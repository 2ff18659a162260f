"""Requests and results as JSONL in blob storage."""
