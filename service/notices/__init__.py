"""What a notice says, and how a webhook is sent."""
