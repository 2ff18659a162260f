"""`haulier top`: the overview of a deployment, live."""
