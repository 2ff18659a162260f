"""The only place that knows Together's wire format: the HTTP client and the answer lines."""
