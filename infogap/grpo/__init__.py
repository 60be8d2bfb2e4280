"""Group-relative policy optimisation: advantages, losses and the LightningModule that trains the policy."""
