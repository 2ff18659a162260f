"""Calls that wait for their batch: who holds them, what became of them, and how that is said."""
