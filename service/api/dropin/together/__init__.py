"""Together's dialect, for its SDK."""
