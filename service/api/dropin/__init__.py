"""Together's Files and Batch API over Haulier's jobs, as its SDK speaks it."""
