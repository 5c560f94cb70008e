"""What the cards say: from NVML, from a file, or nothing."""
