"""The monthly cost of a deployment, from dated prices and counted commands. docs/cost.md explains the model."""
