"""Together's API and its files. No other folder knows Together's wire format."""
