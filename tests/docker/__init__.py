"""The image and the compose file, tried for real: `make docker-test`."""
