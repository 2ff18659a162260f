"""Prunes old finished jobs, and sweeps blobs that no row names."""
