"""What pool_managerd answers: thin handlers over what the rest decides."""
