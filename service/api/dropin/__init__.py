"""The endpoints below /together/v1: Together's Files and Batch API, for use with its SDK."""
