"""The console: pages for people, rendered here, at /console."""
