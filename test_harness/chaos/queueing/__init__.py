"""Faults of the queue: floods, cancels, late and poisonous work, engines that stop or die."""
