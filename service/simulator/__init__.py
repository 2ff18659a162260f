"""A Together of one's own: the Files and Batch API as a server for tests, demos and staging."""
