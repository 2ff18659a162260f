"""Commands for operators: accounts, producers, notices, and `haulier doctor`."""
