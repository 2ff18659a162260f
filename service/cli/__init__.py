"""`haulier`: a folder for each thing that a person does with it."""
