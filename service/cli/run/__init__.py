"""Commands that run Haulier's parts, and the supervision of their processes."""
