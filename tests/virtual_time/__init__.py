"""Months in minutes: a wall clock that tests move, under every process of a real deployment."""
