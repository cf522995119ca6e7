"""The commands that train and evaluate: LightningCLI for a search agent, and what it does before and after."""
