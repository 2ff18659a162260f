"""The endpoints below /v1. Each module is a subject, and a tag in the OpenAPI document."""
