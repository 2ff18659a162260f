"""Scripts as users of other SDKs have them, each run by an interpreter that has its SDK."""
