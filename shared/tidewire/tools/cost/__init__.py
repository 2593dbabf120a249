"""What a deployment costs a month: dated prices and counted commands. docs/cost.md says what is counted."""
