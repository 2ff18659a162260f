"""The content of notices, and the sending of webhooks."""
