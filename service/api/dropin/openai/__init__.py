"""OpenAI's dialect, for its SDK: files and batches."""
