"""How an engine comes to run: one file per `provisioning.mode`, each a plan and no act."""
