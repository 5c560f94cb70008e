"""pool_managerd: owns the cards, the engine processes and the leases on their slots."""
