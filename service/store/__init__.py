"""The only writer of state. One file per thing that is done to rows, one transaction per call."""
