"""`haulier submit` and `estimate`: requests and tables go in."""
