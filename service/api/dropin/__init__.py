"""The endpoints below /together/v1 and /openai/v1: files and batches, for use with those SDKs."""
