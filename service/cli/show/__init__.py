"""Commands that show jobs, batches, requests, results and usage."""
