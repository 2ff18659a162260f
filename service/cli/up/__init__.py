"""`haulier up`: everything on this machine, with servers of its own."""
