"""P: engines that die, hang, flood and lie, and a manager that is killed."""
