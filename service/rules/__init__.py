"""Pure rules: states, errors, retry, admission, prices. No database, no HTTP, no files."""
